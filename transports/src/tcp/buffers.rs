//! How much a TCP connection may keep in the kernel.
//!
//! The kernel lets a connection's buffers grow to megabytes, which a long path needs: they must
//! hold what is under way for one round trip. On a short path more than that only means that
//! bytes have left the processor's cache before they are read again. Between two processes of
//! one machine the connection's share of the CPU time falls by an eighth with small buffers
//! (`docs/decisions/010-small-buffers-on-short-paths.md`).
//!
//! Cost: one system call per connection, and two more on a short path.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use socket2::SockRef;

use super::info;

/// Longest round trip of a short path. Longer ones keep the kernel's own buffers.
const SHORT: Duration = Duration::from_micros(100);

/// Buffer of a connection over a short path, in bytes, as given to the kernel, which doubles it
/// (socket(7)): over 100 us it lets 21 Gbit/s through.
const SHORT_BUFFER_BYTES: usize = 128 << 10;

/// Bounds the buffers of a fresh connection if its path is short.
///
/// # Errors
/// When the kernel does not say how long it is, or refuses.
pub(super) fn bound(stream: &TcpStream) -> io::Result<()> {
    if round_trip(stream)? <= SHORT {
        let socket = SockRef::from(stream);
        socket.set_send_buffer_size(SHORT_BUFFER_BYTES)?;
        socket.set_recv_buffer_size(SHORT_BUFFER_BYTES)?;
    }
    Ok(())
}

/// The round trip as the kernel has measured it so far: in the handshake, on a fresh
/// connection (`TCP_INFO`, tcp(7)).
fn round_trip(stream: &TcpStream) -> io::Result<Duration> {
    let info = info::tcp_info(stream)?;
    Ok(Duration::from_micros(info.tcpi_rtt.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn a_connection_within_the_machine_is_measured_and_bounded_if_short() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        for stream in [&near, &far] {
            let round_trip = round_trip(stream).unwrap();
            assert!(round_trip > Duration::ZERO);
            bound(stream).unwrap();
            // The machine may have been too busy for a short round trip.
            if round_trip <= SHORT {
                let bytes = SockRef::from(stream).send_buffer_size().unwrap();
                assert_eq!(bytes, 2 * SHORT_BUFFER_BYTES);
            }
        }
    }
}
