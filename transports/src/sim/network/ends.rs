//! The transport contract over a simulated network: link, listener, and the ends of connections.

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pagelift_engine::pipeline::Clock;
use pagelift_engine::transport::{
    Connection, Link, Listener, RateCapped, Role, SendHalf, SendQueue, SendStats, WriteHalf,
};
use pagelift_engine::units::{PageIndex, PageRange, Rate};

use super::{ConnectionId, Direction, SimNetwork};

/// Opens connections through a [`SimNetwork`].
#[derive(Clone, Debug)]
pub struct SimLink(pub(super) SimNetwork);

impl Link for SimLink {
    fn connect(&self, _: Role) -> io::Result<Connection> {
        self.0.connect(super::Opener::Source)
    }
}

impl RateCapped for SimLink {
    /// Caps the network itself, both ways: a writer cannot wait for its turn in virtual time.
    fn set_rate(&self, cap: Option<Rate>) {
        self.0.lock().cap = cap;
    }
}

/// Accepts connections from a [`SimNetwork`]. Never waits, whatever the time-out.
#[derive(Clone, Debug)]
pub struct SimListener(pub(super) SimNetwork);

impl Listener for SimListener {
    fn accept(&self, _timeout: Duration) -> io::Result<Option<Connection>> {
        Ok(self.0.accept())
    }

    fn address(&self) -> String {
        "sim://".into()
    }
}

/// Reads or writes one direction of a connection.
pub(super) struct SimStream {
    pub(super) network: SimNetwork,
    pub(super) id: ConnectionId,
    pub(super) direction: Direction,
}

impl Write for SimStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.network.write(self.id, self.direction, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for SimStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut net = self.network.lock();
        let now = net.clock.now();
        let Some(wire) = net.connections.get_mut(self.id) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        wire.pipes[self.direction as usize].read(now, out)
    }
}

/// Sends to one direction of a connection.
pub(super) struct SimHalf(pub(super) WriteHalf<SimStream>);

impl SendHalf for SimHalf {
    fn lend(&mut self) -> io::Result<BytesMut> {
        self.0.lend()
    }

    fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.0.send(bytes)
    }

    fn give_back(&mut self, buffer: Bytes) {
        self.0.give_back(buffer);
    }

    fn is_one_sided(&self) -> bool {
        self.0.get_ref().network.lock().config.one_sided
    }

    /// Once the target has taken the connection in; until then pages go as frames.
    fn can_place(&mut self, _: &[PageRange]) -> io::Result<bool> {
        let stream = self.0.get_ref();
        Ok(stream.network.is_exposed(stream.id))
    }

    fn place(&mut self, first: PageIndex, pages: Bytes) -> io::Result<()> {
        let stream = self.0.get_ref();
        stream.network.place(stream.id, first, &pages)
    }

    fn stats(&mut self) -> SendStats {
        let stream = self.0.get_ref();
        let net = stream.network.lock();
        let wire = net.connections.get(stream.id);
        SendStats {
            queue: wire.map(|wire| SendQueue {
                queued_bytes: wire.pipes[stream.direction as usize].under_way(),
                capacity_bytes: net.config.buffer_bytes,
            }),
            busy: None,
            rate_cap: Some(net.rate()),
        }
    }
}
