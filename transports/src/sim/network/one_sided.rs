//! One-sided placement over a simulated network.
//!
//! Pages are in the target's memory as soon as they are placed, however long frames are under way: the
//! hardest case for whoever relies on their order.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use pagelift_engine::memory::GuestMemory;
use pagelift_engine::transport::{Expose, Fence};
use pagelift_engine::units::PageIndex;

use super::{ConnectionId, SimNetwork};

/// What the source may write by a connection.
#[derive(Default)]
pub(super) struct Exposed(Option<Arc<dyn GuestMemory>>);

impl fmt::Debug for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exposed({})", self.0.is_some())
    }
}

/// The target's end of a connection.
pub(super) struct SimExposure {
    pub(super) network: SimNetwork,
    pub(super) id: ConnectionId,
}

impl SimExposure {
    fn set(&self, memory: Option<Arc<dyn GuestMemory>>) {
        if let Some(wire) = self.network.lock().connections.get_mut(self.id) {
            wire.exposed = Exposed(memory);
        }
    }
}

impl Expose for SimExposure {
    fn expose(self: Box<Self>, memory: Arc<dyn GuestMemory>) -> io::Result<Box<dyn Fence>> {
        self.set(Some(memory));
        Ok(self)
    }
}

impl Fence for SimExposure {
    fn close(&mut self) -> io::Result<()> {
        self.set(None);
        Ok(())
    }
}

impl SimNetwork {
    /// Whether the source may write by this connection.
    pub(super) fn is_exposed(&self, id: ConnectionId) -> bool {
        let net = self.lock();
        let wire = net.connections.get(id);
        wire.is_some_and(|wire| wire.exposed.0.is_some())
    }

    /// Puts `pages` into the target's memory.
    pub(super) fn place(
        &self,
        id: ConnectionId,
        first: PageIndex,
        pages: &Bytes,
    ) -> io::Result<()> {
        let net = self.lock();
        let wire = net.connections.get(id);
        let wire = wire.filter(|wire| wire.pipes.iter().all(super::Pipe::is_open));
        let memory = wire.and_then(|wire| wire.exposed.0.clone());
        drop(net);
        let Some(memory) = memory else {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "a page was placed where nothing is accessible",
            ));
        };
        memory.write(first, pages).map_err(io::Error::other)
    }
}
