//! The sending half of a TCP connection, and what the kernel knows of it.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pagelift_engine::transport::{SendHalf, SendQueue, SendStats, WriteHalf};
use socket2::SockRef;

use super::info;
use super::stream::Stream;

/// Least capacity of a queue: less does not keep a link busy while a block is packed.
const LEAST_CAPACITY_BYTES: u64 = 64 << 10;

/// Sends to a blocking socket.
pub(super) struct TcpHalf(WriteHalf<Stream>);

impl TcpHalf {
    pub(super) fn new(stream: Stream) -> Self {
        Self(WriteHalf::new(stream))
    }
}

impl SendHalf for TcpHalf {
    fn lend(&mut self) -> io::Result<BytesMut> {
        self.0.lend()
    }

    fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.0.send(bytes)
    }

    fn give_back(&mut self, buffer: Bytes) {
        self.0.give_back(buffer);
    }

    fn stats(&mut self) -> SendStats {
        stats(self.0.get_ref().socket())
    }
}

/// What the kernel says of `stream`: two system calls.
fn stats(stream: &TcpStream) -> SendStats {
    let Ok(info) = info::tcp_info(stream) else {
        return SendStats::default();
    };
    SendStats {
        queue: queue(stream, &info),
        // `linux/tcp.h`: microseconds, of which the kernel counts ticks of 1 to 10 ms. Kernels before
        // 4.10 leave it 0.
        busy: (info.tcpi_busy_time > 0).then(|| Duration::from_micros(info.tcpi_busy_time)),
        rate_cap: None,
    }
}

/// The socket's queue. Its buffer also holds what is under way, and grows as the path asks.
fn queue(stream: &TcpStream, info: &libc::tcp_info) -> Option<SendQueue> {
    let buffer = SockRef::from(stream).send_buffer_size().ok()?;
    let under_way = u64::from(info.tcpi_unacked) * u64::from(info.tcpi_snd_mss);
    let capacity = (buffer as u64).saturating_sub(under_way);
    Some(SendQueue {
        queued_bytes: info.tcpi_notsent_bytes.into(),
        capacity_bytes: capacity.max(LEAST_CAPACITY_BYTES),
    })
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
        let queue = || stats(&near).queue.unwrap();
        assert_eq!(queue().queued_bytes, 0);
        let written = stuff(&near);
        let full = queue();
        let queued = full.queued_bytes;
        assert!(queued > 0 && queued <= written as u64, "{full:?}");
        assert!(full.fill() > 0.25, "full is told from empty: {full:?}");
        far.read_exact(&mut vec![0; written]).unwrap();
        assert_eq!(queue().queued_bytes, 0);
    }

    #[test]
    fn time_counts_while_something_is_under_way() {
        // Several ticks of the kernel's.
        const WHILE: Duration = Duration::from_millis(50);
        let (near, mut far) = pair();
        let busy = || stats(&near).busy;
        assert_eq!(busy(), None, "nothing was written");
        let written = stuff(&near);
        std::thread::sleep(WHILE);
        let before = busy().unwrap();
        std::thread::sleep(WHILE);
        assert!(busy().unwrap() >= before + WHILE / 2);
        far.read_exact(&mut vec![0; written]).unwrap();
        // The last acknowledgement may be on its way.
        let stands = || {
            let before = busy();
            std::thread::sleep(WHILE);
            busy() == before
        };
        assert!(std::iter::repeat_with(stands).take(20).any(|stands| stands));
    }
}
