//! TCP: blocking sockets, a thread each.
//!
//! Every connection has `TCP_NODELAY` (frames are written whole, and control messages must not
//! wait), keepalive and `TCP_USER_TIMEOUT` (a dead peer is noticed in seconds even while data
//! is unacknowledged; tcp(7)). Reads time out after a fraction of a second, so that a reader
//! notices when the migration is over; writes block: that is the back-pressure. On a short path the
//! buffers are bounded.

mod buffers;
mod info;
mod link;
mod listener;
mod send;

pub(crate) use link::TcpLink;
pub(crate) use listener::TcpServer;

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use pagelift_engine::transport::{Closer, Connection};
use socket2::{SockRef, TcpKeepalive};

use self::send::TcpHalf;

/// How long sent data may stay unacknowledged before the connection counts as dead.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle time before the kernel probes the other side, and time between probes.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Longest wait in a read before it says that there is nothing.
const READ_TICK: Duration = Duration::from_millis(200);

/// Reads from a socket, and tells a lost connection from silence.
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
fn connection(stream: TcpStream) -> io::Result<Connection> {
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
    Ok(Connection {
        tx: Box::new(TcpHalf::new(stream)),
        rx: Box::new(TcpReader(rx)),
        closer: Closer::new(move || {
            // It may be closed already.
            let _ = closing.shutdown(Shutdown::Both);
        }),
    })
}
