//! Accepts one connection, from whoever knows its number.

#![allow(unsafe_code, reason = "calls of librdmacm")]

use std::io;
use std::time::Instant;

use super::abi::{CONNECT_REQUEST, CmId, ESTABLISHED};
use super::connection::{Connected, Depths, parameters};
use super::events::{Events, Id, Wake, failed};

/// `AF_INET6`.
const FAMILY: libc::sa_family_t = 10;

/// Listens on all RDMA devices for one connection.
pub(in super::super) struct CmListener {
    // Before the channel, which rdma_destroy_id reads: fields are dropped in their order.
    id: Id,
    events: Events,
    port: u16,
}

// SAFETY: the library's calls may be made from all threads.
unsafe impl Send for CmListener {}

impl CmListener {
    /// Listens at a port that nobody else has.
    ///
    /// # Errors
    /// When there is no RDMA on this host.
    pub(in super::super) fn new() -> io::Result<Self> {
        let events = Events::new()?;
        let id = events.id()?;
        // SAFETY: a structure of numbers, for which zero is a value: any address.
        let mut any: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        // Takes IPv4 as well.
        any.sin6_family = FAMILY;
        let library = events.library;
        // SAFETY: the identifier is ours; the address is only read.
        let port = unsafe {
            failed((library.rdma_bind_addr)(id.id, (&raw mut any).cast()))?;
            failed((library.rdma_listen)(id.id, 4))?;
            u16::from_be((library.rdma_get_src_port)(id.id))
        };
        Ok(Self { id, events, port })
    }

    /// The port.
    pub(in super::super) fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the one who brings `number`; others are rejected. `ready` is called with what is to be
    /// accepted, before the other side can send anything.
    ///
    /// # Errors
    /// When nobody has come before `deadline`, or the connection cannot be made.
    pub(in super::super) fn accept(
        self,
        number: &[u8],
        depths: Depths,
        deadline: Instant,
        wake: &Wake,
        ready: impl FnOnce(&mut Connected) -> io::Result<()>,
    ) -> io::Result<Connected> {
        // While this may fail, `self` is whole: its fields are dropped in their order.
        let request = self.request(number, deadline, wake)?;
        let Self { id, events, .. } = self;
        // What was accepted lives on without it.
        drop(id);
        let library = events.library;
        let mut connected = Connected::new(events, request, depths, wake.clone())?;
        ready(&mut connected)?;
        let mut parameters = parameters(&[]);
        // SAFETY: the request has a queue pair; the parameters are only read.
        failed(unsafe { (library.rdma_accept)(request, &raw mut parameters) })?;
        connected.expect(ESTABLISHED, deadline)?;
        Ok(connected)
    }

    /// The identifier of the request that brings `number`, which is the caller's; others are rejected.
    fn request(&self, number: &[u8], deadline: Instant, wake: &Wake) -> io::Result<*mut CmId> {
        let library = self.events.library;
        loop {
            let event = self.events.take_before(deadline, wake)?;
            if event.kind != CONNECT_REQUEST {
                continue;
            }
            // Private data is padded.
            if event.private_data.get(..number.len()) == Some(number) {
                return Ok(event.id);
            }
            // SAFETY: the identifier of a request is ours, and its channel is there.
            unsafe {
                (library.rdma_reject)(event.id, std::ptr::null(), 0);
                (library.rdma_destroy_id)(event.id);
            }
        }
    }
}
