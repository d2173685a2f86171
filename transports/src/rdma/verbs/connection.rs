//! A connected queue pair with its completions.

#![allow(unsafe_code, reason = "calls of libibverbs and librdmacm")]

use std::ffi::c_void;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::abi::{
    ADDRESS_ERROR, ADDRESS_RESOLVED, CmId, CompletionChannel, ConnectionParameters, Cq,
    ESTABLISHED, FLUSHED, OPTION_ACK_TIMEOUT, OPTION_ID, QP_RELIABLE_CONNECTED, QpAttributes,
    RECEIVED, REJECTED, ROUTE_ERROR, ROUTE_RESOLVED, SUCCESS, WorkCompletion,
};
use super::device::Device;
use super::events::{Event, Events, Id, Wake, failed, wait_for};
use super::requests::{failure, posted};

/// How long an address or a route is looked for, in milliseconds.
const RESOLVE_MS: i32 = 2000;

/// How long a packet may stay unacknowledged: 4.096 us * 2^16 is 0.27 s (InfiniBand, 9.7.5.2.8).
const ACK_TIMEOUT: u8 = 16;

/// How often it is sent again. Not 7, which soft-RoCE takes for "for ever": a peer that is gone would
/// never be noticed. With [`ACK_TIMEOUT`] it is within a few seconds, as on TCP.
const RETRIES: u8 = 6;

/// A receiver without memory for a message is asked again for ever: credits keep that from happening.
const NOT_READY_RETRIES: u8 = 7;

/// Completions that are taken at a time.
const BATCH: usize = 16;

/// Requests that may be in the queues.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Depths {
    pub(in super::super) send: u32,
    pub(in super::super) receive: u32,
}

/// A request that is done.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Completion {
    /// Its number.
    pub(in super::super) id: u64,
    pub(in super::super) done: Done,
}

/// What was done.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Done {
    /// Bytes were sent or written, by it and all requests before.
    Sent,
    /// A message of so many bytes was received, and a number with it if it had one.
    Received { len: usize, number: u32 },
}

/// A connection. One thread uses it.
pub(in super::super) struct Connected {
    events: Events,
    pub(super) id: *mut CmId,
    pub(in super::super) device: &'static Device,
    channel: *mut CompletionChannel,
    cq: *mut Cq,
    /// How many requests the queue for sending takes.
    pub(in super::super) send_depth: u32,
    /// Whether the next completion makes itself heard.
    armed: bool,
    /// The other side has gone.
    disconnected: bool,
    pub(super) wake: Wake,
}

// SAFETY: the library's calls may be made from all threads.
unsafe impl Send for Connected {}

/// How both sides connect; `private_data` must outlive the call that is made with it.
pub(super) fn parameters(private_data: &[u8]) -> ConnectionParameters {
    ConnectionParameters {
        private_data: private_data.as_ptr().cast(),
        // At most 56 bytes for one who connects (rdma_connect(3)).
        private_data_len: u8::try_from(private_data.len()).unwrap_or(0),
        responder_resources: 0,
        initiator_depth: 0,
        flow_control: 1,
        retry_count: RETRIES,
        rnr_retry_count: NOT_READY_RETRIES,
        shared_receive_queue: 0,
        qp_number: 0,
    }
}

impl Connected {
    /// Connects to `address` and shows `number` there. `ready` is called before the other side can send
    /// anything.
    ///
    /// # Errors
    /// When no RDMA device leads there, nobody answers before `deadline`, or the other side refuses.
    pub(in super::super) fn connect(
        address: SocketAddr,
        number: &[u8],
        depths: Depths,
        deadline: Instant,
        wake: &Wake,
        ready: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<Self> {
        let events = Events::new()?;
        let mut id = events.id()?;
        let library = events.library;
        let socket = socket2::SockAddr::from(address);
        // SAFETY: the identifier is ours; the address is only read.
        let status = unsafe {
            let to = socket.as_ptr().cast_mut().cast();
            (library.rdma_resolve_addr)(id.id, std::ptr::null_mut(), to, RESOLVE_MS)
        };
        failed(status)?;
        expect(&events, ADDRESS_RESOLVED, deadline, wake)?;
        let mut timeout = ACK_TIMEOUT;
        // SAFETY: the option is one byte. Old kernels refuse it and keep their own time-out.
        unsafe {
            let option = (&raw mut timeout).cast::<c_void>();
            (library.rdma_set_option)(id.id, OPTION_ID, OPTION_ACK_TIMEOUT, option, 1);
        }
        // SAFETY: the identifier is ours and has an address.
        failed(unsafe { (library.rdma_resolve_route)(id.id, RESOLVE_MS) })?;
        expect(&events, ROUTE_RESOLVED, deadline, wake)?;
        let mut connected = Self::new(events, id.release(), depths, wake.clone())?;
        ready(&mut connected)?;
        let mut parameters = parameters(number);
        // SAFETY: the identifier has a queue pair; the parameters are only read.
        failed(unsafe { (library.rdma_connect)(connected.id, &raw mut parameters) })?;
        connected.expect(ESTABLISHED, deadline)?;
        Ok(connected)
    }

    /// Gives `id`, which knows its device, a queue pair; owns it from now on.
    pub(super) fn new(
        events: Events,
        id: *mut CmId,
        depths: Depths,
        wake: Wake,
    ) -> io::Result<Self> {
        let library = events.library;
        let mut id = Id { library, id };
        // SAFETY: the identifier is ours.
        let device = Device::of(unsafe { (*id.id).context })?;
        let limits = device.limits;
        let send_depth = depths.send.min(limits.requests);
        let receive_depth = depths.receive.min(limits.requests);
        let entries = (send_depth + receive_depth).min(limits.completions);
        // SAFETY: the context is open; what was made is destroyed by `Drop`, in the opposite order.
        unsafe {
            let channel = (library.ibv_create_comp_channel)(device.context);
            if channel.is_null() {
                return Err(io::Error::last_os_error());
            }
            let entries = i32::try_from(entries).unwrap_or(i32::MAX);
            let none = std::ptr::null_mut();
            let cq = (library.ibv_create_cq)(device.context, entries, none, channel, 0);
            if cq.is_null() {
                let error = io::Error::last_os_error();
                (library.ibv_destroy_comp_channel)(channel);
                return Err(error);
            }
            let mut attributes = QpAttributes {
                context: none,
                send_cq: cq,
                receive_cq: cq,
                shared_receive_queue: none,
                max_send_requests: send_depth,
                max_receive_requests: receive_depth,
                max_send_pieces: 1,
                max_receive_pieces: 1,
                max_inline_bytes: 0,
                kind: QP_RELIABLE_CONNECTED,
                signal_all: 0,
            };
            let made = failed((library.rdma_create_qp)(
                id.id,
                device.pd,
                &raw mut attributes,
            ));
            if let Err(error) = made {
                (library.ibv_destroy_cq)(cq);
                (library.ibv_destroy_comp_channel)(channel);
                return Err(error);
            }
            Ok(Self {
                events,
                id: id.release(),
                device,
                channel,
                cq,
                send_depth,
                armed: false,
                disconnected: false,
                wake,
            })
        }
    }

    /// Waits for an event, and fails with any other one.
    pub(super) fn expect(&mut self, kind: u32, deadline: Instant) -> io::Result<()> {
        expect(&self.events, kind, deadline, &self.wake)
    }

    /// Whether the other side has gone.
    pub(in super::super) fn is_disconnected(&self) -> bool {
        self.disconnected
    }

    /// Adds requests that are done to `done`; waits for one up to `timeout`.
    ///
    /// # Errors
    /// When one has failed, or the connection was closed on this side. That the other side has gone is
    /// known afterwards.
    pub(in super::super) fn completions(
        &mut self,
        done: &mut Vec<Completion>,
        timeout: Duration,
    ) -> io::Result<()> {
        self.wake.check()?;
        if self.take(done)? || timeout.is_zero() {
            return Ok(());
        }
        if !self.armed {
            // SAFETY: the queue is there, and its context has the call.
            let status = unsafe { ((*(*self.cq).context).req_notify_cq)(self.cq, 0) };
            posted(status)?;
            self.armed = true;
            // What came before it was armed makes no sound.
            if self.take(done)? {
                return Ok(());
            }
        }
        // SAFETY: the descriptor is open as long as the channel is.
        let channel = unsafe { BorrowedFd::borrow_raw((*self.channel).fd) };
        let fds = [channel, self.events.fd(), self.wake.fd()];
        let [completed, happened, _] = wait_for(fds, timeout)?;
        if happened {
            // The only one that a connection of ours has left is that it ends.
            self.events.take()?;
            self.disconnected = true;
            // What is in the queues is given back, and what has come is kept.
            // SAFETY: the identifier is connected.
            unsafe { (self.events.library.rdma_disconnect)(self.id) };
        }
        if completed {
            let (mut cq, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
            let library = self.events.library;
            // SAFETY: the channel has an event, which is acknowledged.
            unsafe {
                failed((library.ibv_get_cq_event)(
                    self.channel,
                    &raw mut cq,
                    &raw mut context,
                ))?;
                (library.ibv_ack_cq_events)(cq, 1);
            }
            self.armed = false;
        }
        self.take(done)?;
        self.wake.check()
    }

    /// Takes what is done; whether there was anything.
    fn take(&mut self, done: &mut Vec<Completion>) -> io::Result<bool> {
        let mut batch = [WorkCompletion::default(); BATCH];
        // SAFETY: the queue is there, its context has the call, and the room is as large as it says.
        let count = unsafe {
            let most = i32::try_from(BATCH).unwrap_or(0);
            ((*(*self.cq).context).poll_cq)(self.cq, most, batch.as_mut_ptr())
        };
        let count = usize::try_from(count).map_err(|_| io::Error::other("a queue has failed"))?;
        for completion in &batch[..count] {
            if completion.status != SUCCESS {
                return match completion.status {
                    // The consequence of something else, which is told first or told otherwise.
                    FLUSHED if self.disconnected => Ok(true),
                    status => Err(failure(status)),
                };
            }
            let received = completion.opcode & RECEIVED != 0;
            done.push(Completion {
                id: completion.id,
                done: match received {
                    true => Done::Received {
                        len: completion.byte_len as usize,
                        number: u32::from_be(completion.immediate),
                    },
                    false => Done::Sent,
                },
            });
        }
        Ok(count > 0)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let library = self.events.library;
        // SAFETY: all of it was made by `new`, in the opposite order; nobody else has it.
        unsafe {
            if !self.disconnected {
                (library.rdma_disconnect)(self.id);
            }
            (library.rdma_destroy_qp)(self.id);
            (library.ibv_destroy_cq)(self.cq);
            (library.ibv_destroy_comp_channel)(self.channel);
            (library.rdma_destroy_id)(self.id);
        }
    }
}

fn expect(events: &Events, kind: u32, deadline: Instant, wake: &Wake) -> io::Result<()> {
    let event = events.take_before(deadline, wake)?;
    if event.kind == kind {
        return Ok(());
    }
    Err(unexpected(&event))
}

/// What an event says that nobody hoped for.
fn unexpected(event: &Event) -> io::Error {
    let (kind, text) = match event.kind {
        ADDRESS_ERROR | ROUTE_ERROR => (
            io::ErrorKind::NetworkUnreachable,
            "no RDMA device of this host leads there (`rdma link` shows them); use tcp:// instead",
        ),
        REJECTED => (
            io::ErrorKind::ConnectionRefused,
            "the other side refuses RDMA",
        ),
        _ => (
            io::ErrorKind::ConnectionAborted,
            "the RDMA connection could not be made",
        ),
    };
    let (number, status) = (event.kind, event.status);
    io::Error::new(kind, format!("{text} (event {number}, status {status})"))
}
