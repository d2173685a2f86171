//! The transport contract over a simulated network: link, listener, streams and gauge.

use std::io::{self, Read, Write};
use std::time::Duration;

use pagelift_engine::pipeline::Clock;
use pagelift_engine::transport::{Connection, Gauge, Held, Link, Listener, RateCapped, Role};
use pagelift_engine::units::Rate;

use super::{ConnectionId, Direction, SimNetwork};

/// Opens connections through a [`SimNetwork`].
#[derive(Clone, Debug)]
pub struct SimLink(pub(super) SimNetwork);

impl Link for SimLink {
    fn connect(&self, _: Role) -> io::Result<Connection> {
        self.0.connect()
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

/// Looks at one direction.
pub(super) struct SimGauge {
    pub(super) network: SimNetwork,
    pub(super) id: ConnectionId,
    pub(super) direction: Direction,
}

impl Gauge for SimGauge {
    fn look(&mut self) -> Option<Held> {
        let net = self.network.lock();
        let wire = net.connections.get(self.id)?;
        Some(Held {
            bytes: wire.pipes[self.direction as usize].under_way(),
            room_bytes: net.config.buffer_bytes,
        })
    }

    fn cap(&self) -> Option<Rate> {
        Some(self.network.lock().rate())
    }
}
