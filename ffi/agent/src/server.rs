//! The agent's thread: takes one client at a time and answers its requests.
//!
//! The client's socket is read without blocking and its messages are put together here, so
//! that a client that stalls inside a message does not keep a second one from hearing that
//! the agent is busy. While a rollback script runs nobody is served; a new connection waits in
//! the backlog.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use pagelift_agent_protocol::{
    AgentInfo, DecodeError, ErrorCode, ErrorReply, FEATURE_ROLLBACK, FEATURE_SHORT_PERIODS,
    FEATURE_THROTTLE, FEATURE_USERFAULTFD, HEADER_BYTES, Header, LentUserfaultfd, Reply, Request,
    RollbackScript, VERSION, socket_name,
};

use crate::throttle::ThreadThrottler;
use crate::{complain, rollback, signal_mask, socket, userfault};

/// Its frames are small and its buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;

/// A reply fits the socket's buffer; a client that lets it fill up is dropped after this time.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause after a failure that would otherwise repeat at once, such as too many open files.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Binds the socket and starts the thread; says on standard error if that fails.
///
/// The socket listens when this returns, so that who finds QEMU's RAM mapped finds the agent.
pub(crate) fn start(pid: u32) {
    if let Err(error) = try_start(pid) {
        complain(format_args!(
            "this guest cannot be migrated: the socket @{} or its thread: {error}",
            socket_name(pid)
        ));
    }
}

fn try_start(pid: u32) -> io::Result<()> {
    let address = SocketAddr::from_abstract_name(socket_name(pid))?;
    let listener = UnixListener::bind_addr(&address)?;
    // Signals are QEMU's: a thread inherits the mask of its creator, so that none is ever
    // delivered to it, not even between its first instruction and a call of its own.
    let previous_mask = signal_mask::block_all()?;
    let started = thread::Builder::new()
        .name("pagelift-agent".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| Server::new(pid, listener).run())).is_err() {
                complain(format_args!("stopped by a fault of its own; QEMU runs on"));
            }
        });
    signal_mask::restore(&previous_mask);
    started.map(drop)
}

struct Server {
    pid: u32,
    listener: UnixListener,
    client: Option<Client>,
}

struct Client {
    stream: UnixStream,
    pid: libc::pid_t,
    /// Bytes received and not yet made into a request: less than one message.
    received: Vec<u8>,
    rollback: Option<RollbackScript>,
    throttler: ThreadThrottler,
}

/// The connection is over.
struct Gone;

impl Server {
    fn new(pid: u32, listener: UnixListener) -> Self {
        Self {
            pid,
            listener,
            client: None,
        }
    }

    fn run(&mut self) -> ! {
        loop {
            let client = self.client.as_ref().map(|client| client.stream.as_fd());
            let lease = self.client.as_ref();
            let lease = lease.and_then(|client| client.throttler.time_left());
            let waited = socket::wait(self.listener.as_fd(), client, lease);
            self.end_lease_if_over();
            let Ok((has_caller, has_bytes)) = waited else {
                thread::sleep(BACK_OFF);
                continue;
            };
            // The client first: if it has just left, the caller finds its place free.
            if has_bytes {
                self.hear_client();
            }
            if has_caller {
                match self.listener.accept() {
                    Ok((stream, _)) => self.welcome(stream),
                    Err(_) => thread::sleep(BACK_OFF),
                }
            }
        }
    }

    /// Releases what a client throttles that has not been heard of for too long.
    fn end_lease_if_over(&mut self) {
        if let Some(client) = &mut self.client
            && client.throttler.time_left() == Some(Duration::ZERO)
        {
            client.throttler.release();
            complain(format_args!(
                "the client, pid {}, is silent: the throttle's lease is over",
                client.pid
            ));
        }
    }

    /// Takes a caller on, or sends it away with the reason.
    fn welcome(&mut self, stream: UnixStream) {
        let Ok(peer) = socket::peer(&stream) else {
            return;
        };
        if stream.set_write_timeout(Some(SEND_TIMEOUT)).is_err() {
            return;
        }
        let own_uid = socket::own_uid();
        let refusal = if peer.uid != 0 && peer.uid != own_uid {
            Some(ErrorReply {
                code: ErrorCode::NotAllowed,
                text: format!(
                    "user {} may not use the agent of process {}: only root and user {own_uid}, \
                     as which QEMU runs, may; run pagelift as one of them",
                    peer.uid, self.pid
                ),
            })
        } else {
            self.client.as_ref().map(|client| ErrorReply {
                code: ErrorCode::Busy,
                text: format!("busy: pid {} is using it", client.pid),
            })
        };
        if let Some(refusal) = refusal {
            let _ = socket::send(&stream, &Reply::Error(refusal).encode(), None);
            return;
        }
        self.client = Some(Client {
            stream,
            pid: peer.pid,
            received: Vec::new(),
            rollback: None,
            throttler: ThreadThrottler::default(),
        });
    }

    /// Reads what the client sent and answers it; runs the rollback script of one that is
    /// gone.
    fn hear_client(&mut self) {
        let Some(client) = &mut self.client else {
            return;
        };
        if let Err(Gone) = client.hear(self.pid) {
            let Some(client) = self.client.take() else {
                return;
            };
            let Client {
                rollback,
                pid,
                mut throttler,
                ..
            } = client;
            // The script takes its time.
            throttler.release();
            if let Some(script) = rollback {
                complain(format_args!(
                    "the client, pid {pid}, is gone: running its rollback script"
                ));
                rollback::run(&script);
            }
        }
    }
}

impl Client {
    fn hear(&mut self, own_pid: u32) -> Result<(), Gone> {
        let mut bytes = [0; 4096];
        // One read for one readiness: this does not block, and neither party starves.
        match (&self.stream).read(&mut bytes) {
            Ok(0) => return Err(Gone),
            Ok(count) => self.received.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(_) => return Err(Gone),
        }
        while let Some(request) = self.next_request()? {
            self.answer(request, own_pid)?;
        }
        Ok(())
    }

    /// Cuts one message off the bytes received; `None` until it is complete.
    fn next_request(&mut self) -> Result<Option<Result<Request, DecodeError>>, Gone> {
        let Some((header, rest)) = self.received.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = match Header::decode(header) {
            Ok(header) => header,
            Err(error) => {
                // Where the next message begins is anybody's guess now.
                let _ = self.reply(&error_reply(&error), None);
                return Err(Gone);
            }
        };
        let Some(payload) = rest.get(..header.payload_bytes) else {
            return Ok(None);
        };
        let request = Request::decode(header.kind, payload);
        self.received.drain(..HEADER_BYTES + header.payload_bytes);
        Ok(Some(request))
    }

    fn answer(&mut self, request: Result<Request, DecodeError>, own_pid: u32) -> Result<(), Gone> {
        let reply = match request {
            Ok(Request::Hello) => Reply::Hello(AgentInfo {
                version: VERSION,
                pid: own_pid,
                features: FEATURE_USERFAULTFD
                    | FEATURE_ROLLBACK
                    | FEATURE_THROTTLE
                    | FEATURE_SHORT_PERIODS,
            }),
            Ok(Request::GetUserfaultfd) => return self.answer_userfaultfd(),
            Ok(Request::SetRollback(script)) => {
                self.rollback = Some(script);
                Reply::RollbackSet
            }
            Ok(Request::ClearRollback) => {
                self.rollback = None;
                Reply::RollbackCleared
            }
            Ok(Request::Throttle(throttle)) => match self.throttler.apply(&throttle) {
                Ok(()) => Reply::Throttled,
                Err(error) => Reply::Error(error),
            },
            Ok(Request::Renew(lease)) => match self.throttler.renew(lease) {
                Ok(()) => Reply::Renewed,
                Err(error) => Reply::Error(error),
            },
            Err(error) => error_reply(&error),
        };
        self.reply(&reply, None)
    }

    fn answer_userfaultfd(&self) -> Result<(), Gone> {
        match userfault::open() {
            Ok(userfault) => {
                let reply = Reply::Userfaultfd(LentUserfaultfd {
                    user_mode_only: userfault.is_user_mode_only,
                });
                // Our copy is closed on return: the client's is the last reference.
                self.reply(&reply, Some(&userfault))
            }
            Err(text) => {
                let code = ErrorCode::NoUserfaultfd;
                self.reply(&Reply::Error(ErrorReply { code, text }), None)
            }
        }
    }

    fn reply(&self, reply: &Reply, with: Option<&userfault::Userfault>) -> Result<(), Gone> {
        let fd = with.map(|userfault| userfault.fd.as_fd());
        socket::send(&self.stream, &reply.encode(), fd).map_err(|_| Gone)
    }
}

fn error_reply(error: &DecodeError) -> Reply {
    let code = match error {
        DecodeError::UnknownType(_) => ErrorCode::UnknownRequest,
        _ => ErrorCode::Malformed,
    };
    Reply::Error(ErrorReply {
        code,
        text: error.to_string(),
    })
}
