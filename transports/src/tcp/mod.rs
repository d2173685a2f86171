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
mod path;
mod send;
mod stream;

pub(crate) use link::TcpLink;
pub(crate) use listener::TcpServer;

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use pagelift_engine::transport::{Closer, Connection, Peer};
use socket2::{SockRef, TcpKeepalive};

use self::send::TcpHalf;
use self::stream::Stream;

/// How long sent data may stay unacknowledged before the connection counts as dead.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle time before the kernel probes the other side, and time between probes.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Longest wait in a read before it says that there is nothing.
const READ_TICK: Duration = Duration::from_millis(200);

/// Whether `address` can be reached from this host alone.
fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Sets a socket up that leads to `address`, and splits it.
fn connection(stream: TcpStream, address: SocketAddr) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READ_TICK))?;
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    socket.set_tcp_keepalive(&keepalive.with_retries(2))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    buffers::bound(&stream)?;

    let stream = Stream::new(stream);
    let closing = stream.clone();
    Ok(Connection {
        rx: Box::new(stream.clone()),
        tx: Box::new(TcpHalf::new(stream)),
        closer: Closer::new(move || {
            // It may be closed already.
            let _ = closing.socket().shutdown(Shutdown::Both);
        }),
        peer: Peer::unauthenticated(address.to_string()),
        one_sided: None,
    })
}
