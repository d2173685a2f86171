//! What the kernel knows of the sending half of a TCP connection.

use std::net::TcpStream;
use std::time::Duration;

use pagelift_engine::transport::{Gauge, Held};
use socket2::SockRef;

use super::info;

/// Least room of a queue: less does not keep a link busy while a block is packed.
const LEAST_ROOM_BYTES: u64 = 64 << 10;

/// The gauge of a TCP connection.
pub(super) struct TcpGauge {
    stream: TcpStream,
}

impl TcpGauge {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream }
    }

    /// The socket's queue. Its buffer also holds what is under way, and grows as the path asks.
    fn queue(&self, info: &libc::tcp_info) -> Option<Held> {
        let buffer = SockRef::from(&self.stream).send_buffer_size().ok()?;
        let room = (buffer as u64).saturating_sub(under_way(info));
        Some(Held {
            bytes: info.tcpi_notsent_bytes.into(),
            room_bytes: room.max(LEAST_ROOM_BYTES),
        })
    }
}

impl Gauge for TcpGauge {
    fn look(&mut self) -> Option<Held> {
        let info = info::tcp_info(&self.stream).ok()?;
        self.queue(&info)
    }

    /// `tcpi_busy_time` (linux/tcp.h), in microseconds, of which the kernel counts ticks of 1 to 10 ms.
    fn carried(&self) -> Option<Duration> {
        let info = info::tcp_info(&self.stream).ok()?;
        // Kernels before 4.10 leave it 0.
        (info.tcpi_busy_time > 0).then(|| Duration::from_micros(info.tcpi_busy_time))
    }
}

/// Bytes that are sent and not acknowledged.
fn under_way(info: &libc::tcp_info) -> u64 {
    u64::from(info.tcpi_unacked) * u64::from(info.tcpi_snd_mss)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        (near, far)
    }

    /// Writes until the connection takes no more; how much that was.
    fn stuff(mut stream: &TcpStream) -> usize {
        stream.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(count) = stream.write(&[7; 64 << 10]) {
            written += count;
        }
        stream.set_nonblocking(false).unwrap();
        written
    }

    #[test]
    fn a_receiver_that_does_not_read_fills_the_queue() {
        let (near, mut far) = pair();
        let mut gauge = TcpGauge::new(near.try_clone().unwrap());
        let empty = gauge.look().unwrap();
        assert_eq!(empty.bytes, 0);
        let written = stuff(&near);
        let held = gauge.look().unwrap();
        assert!(held.bytes > 0 && held.bytes <= written as u64, "{held:?}");
        assert!(
            held.bytes * 4 > held.room_bytes,
            "full is told from empty: {held:?}"
        );
        far.read_exact(&mut vec![0; written]).unwrap();
        assert_eq!(gauge.look().unwrap().bytes, 0);
    }

    #[test]
    fn time_counts_while_something_is_under_way() {
        // Several ticks of the kernel's.
        const WHILE: Duration = Duration::from_millis(50);
        let (near, mut far) = pair();
        let gauge = TcpGauge::new(near.try_clone().unwrap());
        assert_eq!(gauge.carried(), None, "nothing was written");
        let written = stuff(&near);
        std::thread::sleep(WHILE);
        let before = gauge.carried().unwrap();
        std::thread::sleep(WHILE);
        assert!(gauge.carried().unwrap() >= before + WHILE / 2);
        far.read_exact(&mut vec![0; written]).unwrap();
        // The last acknowledgement may be on its way.
        let stands = || {
            let before = gauge.carried();
            std::thread::sleep(WHILE);
            gauge.carried() == before
        };
        assert!(std::iter::repeat_with(stands).take(20).any(|stands| stands));
    }
}
