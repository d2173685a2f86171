//! TCP: blocking sockets, a thread each.
//!
//! Every connection has `TCP_NODELAY` (frames are written whole, and control messages must not
//! wait), keepalive and `TCP_USER_TIMEOUT` (a dead peer is noticed in seconds even while data
//! is unacknowledged; tcp(7)). Reads time out after a fraction of a second, so that a reader can
//! look up; writes block: that is the back-pressure. On a short path its buffers are bounded.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use pagelift_engine::transport::{Closer, Connection, Link, Listener};
use pagelift_engine::units::Rate;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, TcpKeepalive};

use crate::buffers;
use crate::gauge::TcpGauge;
use crate::pace::{Cap, Gate, PacedWriter};

/// How long a connection attempt to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long sent data may stay unacknowledged before the connection counts as dead.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle time before the kernel probes the other side, and time between probes.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Longest wait in a read before it says that there is nothing.
const READ_TICK: Duration = Duration::from_millis(200);

/// A way to a TCP target.
#[derive(Debug)]
pub struct TcpLink {
    addresses: Vec<SocketAddr>,
    cap: Cap,
}

impl TcpLink {
    /// Looks up `host`; connections are made later.
    ///
    /// # Errors
    /// When the name has no address.
    pub fn resolve(host: &str, port: u16) -> io::Result<Self> {
        let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(io::Error::other(format!("{host} has no address")));
        }
        Ok(Self {
            addresses,
            cap: Cap::default(),
        })
    }

    /// Caps the rate of all connections together.
    #[must_use]
    pub fn capped(self, rate: Rate) -> Self {
        self.cap.set(Some(rate));
        self
    }
}

impl Link for TcpLink {
    fn dial(&self) -> io::Result<Connection> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in &self.addresses {
            match TcpStream::connect_timeout(address, CONNECT_TIMEOUT) {
                Ok(stream) => return connection(stream, Some(&self.cap)),
                Err(error) => {
                    let words = format!("{address}: {error}; is pagelift-receive waiting there?");
                    last = io::Error::new(error.kind(), words);
                }
            }
        }
        Err(last)
    }

    fn set_rate(&self, cap: Option<Rate>) {
        self.cap.set(cap);
    }
}

/// A TCP target's ear.
#[derive(Debug)]
pub struct TcpServer {
    listener: TcpListener,
}

impl TcpServer {
    /// Listens on the first address of `host` that can be bound; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// When none can be bound.
    pub fn bind(host: &str, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((host, port))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Listener for TcpServer {
    fn accept(&self, timeout: Duration) -> io::Result<Option<Connection>> {
        let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                // A peer that is gone already is not the listener's failure.
                Ok(connection(stream, None).ok())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(error),
            },
        }
    }
}

/// A socket whose death is not taken for silence.
///
/// A read that found nothing for [`READ_TICK`] ends with EAGAIN (socket(7), `SO_RCVTIMEO`), but a
/// connection that the kernel has given up ends with ETIMEDOUT, which the standard library calls
/// `TimedOut` and readers take for "nothing yet".
struct TcpReader(TcpStream);

impl Read for TcpReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => {
                io::Error::new(io::ErrorKind::NotConnected, error.to_string())
            }
            _ => error,
        })
    }
}

/// Sets a socket up, and splits it.
fn connection(stream: TcpStream, cap: Option<&Cap>) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READ_TICK))?;
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    socket.set_tcp_keepalive(&keepalive.with_retries(2))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    buffers::bound(&stream)?;

    let (rx, closing) = (stream.try_clone()?, stream.try_clone()?);
    let gauge = Box::new(TcpGauge::new(stream.try_clone()?, cap.cloned()));
    let gate = cap.map(Gate::new);
    let tx: Box<dyn Write + Send> = match &gate {
        Some(gate) => Box::new(PacedWriter::new(stream, gate.clone())),
        None => Box::new(stream),
    };
    let rx: Box<dyn Read + Send> = Box::new(TcpReader(rx));
    let closer = Closer::new(move || {
        // It may be closed already.
        let _ = closing.shutdown(Shutdown::Both);
        if let Some(gate) = &gate {
            gate.close();
        }
    });
    Ok(Connection {
        tx,
        rx,
        closer,
        gauge,
    })
}
