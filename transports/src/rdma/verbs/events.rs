//! Events of the connection manager, and waiting.

#![allow(unsafe_code, reason = "calls of librdmacm")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::abi::{CmEvent, CmId, EventChannel};
use super::library::{Library, library};

/// Ends the waits of a connection from any thread.
#[derive(Clone, Debug)]
pub(in super::super) struct Wake(Arc<(OwnedFd, AtomicBool)>);

impl Wake {
    /// # Errors
    /// When there are no descriptors left.
    pub(in super::super) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new((fd, AtomicBool::new(false)))))
    }

    /// Ends all waits, now and later.
    pub(in super::super) fn close(&self) {
        self.0.1.store(true, Ordering::Release);
        // Any number but 0; it counts to 2^64.
        let _ = rustix::io::write(&self.0.0, &[1; 8]);
    }

    /// # Errors
    /// When it was closed.
    pub(in super::super) fn check(&self) -> io::Result<()> {
        match self.0.1.load(Ordering::Acquire) {
            true => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection was closed on this side",
            )),
            false => Ok(()),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

/// Waits until one of `fds` can be read, or for `timeout`; which can.
pub(super) fn wait_for<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Duration,
) -> io::Result<[bool; N]> {
    let mut ready = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut ready, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(ready.map(|fd| !fd.revents().is_empty()))
}

/// A channel for events.
pub(super) struct Events {
    pub(super) library: &'static Library,
    channel: *mut EventChannel,
}

// SAFETY: the library's calls may be made from all threads.
unsafe impl Send for Events {}

/// An event that was taken, with the private data that came with it.
pub(super) struct Event {
    pub(super) kind: u32,
    pub(super) status: i32,
    /// What it is about: for a request, the new connection.
    pub(super) id: *mut CmId,
    pub(super) private_data: Vec<u8>,
}

impl Events {
    /// # Errors
    /// When the libraries or the kernel's modules are missing.
    pub(super) fn new() -> io::Result<Self> {
        let library = library()?;
        // SAFETY: the call needs nothing.
        let channel = unsafe { (library.rdma_create_event_channel)() };
        if channel.is_null() {
            let error = io::Error::last_os_error();
            return Err(io::Error::new(
                error.kind(),
                format!(
                    "no RDMA connections: {error}; is there a device (`rdma link`), and is the module \
                     rdma_ucm loaded?"
                ),
            ));
        }
        Ok(Self { library, channel })
    }

    /// A new identifier for a connection, to be dropped before the channel: in a structure its field
    /// stands before that of the channel, in a function its variable is declared behind it.
    pub(super) fn id(&self) -> io::Result<Id> {
        let mut id = std::ptr::null_mut();
        // SAFETY: the channel is open for as long as the identifier is used, which callers see to.
        let status = unsafe {
            let space = super::abi::PORT_SPACE;
            (self.library.rdma_create_id)(self.channel, &raw mut id, std::ptr::null_mut(), space)
        };
        let library = self.library;
        failed(status).map(|()| Id { library, id })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the channel is.
        unsafe { BorrowedFd::borrow_raw((*self.channel).fd) }
    }

    /// The next event; waits for it.
    pub(super) fn take(&self) -> io::Result<Event> {
        let mut event: *mut CmEvent = std::ptr::null_mut();
        // SAFETY: the channel is open. What is got stays until it is acknowledged.
        unsafe {
            failed((self.library.rdma_get_cm_event)(
                self.channel,
                &raw mut event,
            ))?;
            let data = &(*event).parameters;
            let private_data = match data.private_data.is_null() {
                true => Vec::new(),
                false => std::slice::from_raw_parts(
                    data.private_data.cast::<u8>(),
                    data.private_data_len.into(),
                )
                .to_vec(),
            };
            let taken = Event {
                kind: (*event).kind,
                status: (*event).status,
                id: (*event).id,
                private_data,
            };
            (self.library.rdma_ack_cm_event)(event);
            Ok(taken)
        }
    }

    /// The next event, if it comes before `deadline`.
    ///
    /// # Errors
    /// When it does not, or the connection is closed meanwhile.
    pub(super) fn take_before(&self, deadline: Instant, wake: &Wake) -> io::Result<Event> {
        loop {
            wake.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let [came, _] = wait_for([self.fd(), wake.fd()], left)?;
            if came {
                return self.take();
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: identifiers of the channel are destroyed before it, which their owners see to.
        unsafe { (self.library.rdma_destroy_event_channel)(self.channel) };
    }
}

/// An identifier that nobody has taken over yet.
pub(super) struct Id {
    pub(super) library: &'static Library,
    pub(super) id: *mut CmId,
}

impl Id {
    pub(super) fn release(&mut self) -> *mut CmId {
        std::mem::replace(&mut self.id, std::ptr::null_mut())
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        if !self.id.is_null() {
            // SAFETY: it is ours, and its channel is still there, as `Events::id` asks of its callers.
            unsafe { (self.library.rdma_destroy_id)(self.id) };
        }
    }
}

/// The error of a call that gives -1 and sets `errno`.
pub(super) fn failed(status: i32) -> io::Result<()> {
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
