//! Looks at a TCP connection while it is written to.
//!
//! Where the rate is capped the pacer stands between the writer and the socket, and what it
//! holds back counts like a queue: the fuller of the two says how far the link is behind.

use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pagelift_engine::pipeline::{Carrying, Gauge, Held};
use pagelift_engine::units::Rate;
use socket2::SockRef;

use crate::pace::Pacer;
use crate::socket;

/// Least room of a queue: less does not keep a link busy while a block is packed.
const LEAST_ROOM_BYTES: u64 = 64 << 10;

/// The gauge of a TCP connection.
pub(crate) struct TcpGauge {
    stream: TcpStream,
    pacer: Option<Arc<Mutex<Pacer>>>,
}

impl TcpGauge {
    /// Looks at `stream`, which is written through `pacer` if there is one.
    pub(crate) fn new(stream: TcpStream, pacer: Option<Arc<Mutex<Pacer>>>) -> Self {
        Self { stream, pacer }
    }

    fn pacer(&self) -> Option<MutexGuard<'_, Pacer>> {
        let pacer = self.pacer.as_ref()?;
        Some(pacer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The socket's queue. Its buffer also holds what is under way, and grows as the path asks.
    fn socket(&self) -> Option<Held> {
        let queue = socket::queue(&self.stream).ok()?;
        let buffer = SockRef::from(&self.stream).send_buffer_size().ok()?;
        let room = (buffer as u64).saturating_sub(queue.under_way);
        Some(Held {
            bytes: queue.unsent,
            room_bytes: room.max(LEAST_ROOM_BYTES),
        })
    }
}

impl Gauge for TcpGauge {
    fn held(&self) -> Option<Held> {
        let socket = self.socket()?;
        let paced = self.pacer().map(|pacer| pacer.held(Instant::now()));
        let filling = |held: Held| held.bytes as f64 / held.room_bytes as f64;
        Some(match paced {
            Some(paced) if filling(paced) > filling(socket) => paced,
            _ => socket,
        })
    }

    fn carrying(&self) -> Option<Carrying> {
        let info = socket::tcp_info(&self.stream).ok()?;
        Some(Carrying {
            busy: Duration::from_micros(info.tcpi_busy_time),
            receiver_full: Duration::from_micros(info.tcpi_rwnd_limited),
        })
    }

    fn cap(&self) -> Option<Rate> {
        self.pacer().map(|pacer| pacer.rate())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagelift_engine::units::ByteCount;
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
    fn a_receiver_that_does_not_read_fills_the_queue_and_is_blamed() {
        let (near, mut far) = pair();
        let gauge = TcpGauge::new(near.try_clone().unwrap(), None);
        assert_eq!(gauge.held().unwrap().bytes, 0);
        let written = stuff(&near);
        let held = gauge.held().unwrap();
        assert!(held.bytes > 0 && held.bytes <= written as u64, "{held:?}");
        assert!(
            held.bytes * 4 > held.room_bytes,
            "full is told from empty: {held:?}"
        );
        std::thread::sleep(Duration::from_millis(30));
        let carrying = gauge.carrying().unwrap();
        if carrying.busy.is_zero() {
            eprintln!("SKIP: this kernel does not say how long a connection was busy");
            return;
        }
        assert!(carrying.receiver_full * 4 > carrying.busy, "{carrying:?}");
        far.read_exact(&mut vec![0; written]).unwrap();
        assert_eq!(gauge.held().unwrap().bytes, 0);
    }

    #[test]
    fn what_a_pacer_holds_back_counts_as_held() {
        let (near, _far) = pair();
        let rate = Rate(1_000_000);
        let pacer = Arc::new(Mutex::new(Pacer::new(rate, Instant::now())));
        let gauge = TcpGauge::new(near, Some(Arc::clone(&pacer)));
        assert_eq!(gauge.cap(), Some(rate));
        pacer
            .lock()
            .unwrap()
            .take(Instant::now(), ByteCount(1 << 20));
        let held = gauge.held().unwrap();
        assert_eq!(held.bytes, held.room_bytes, "as much as there is room for");
    }
}
