//! The rate over any stretch, and which waiters are woken when.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pagelift_engine::transport::{
    Closer, Connection, Link, Peer, RateCapped, Role, SendHalf, SendStats, send_buffer,
};
use pagelift_engine::units::{ByteCount, Rate};

use super::Paced;
use super::pacer::{BURST, Pacer, SLICE_BYTES, SLICE_BYTES_MIN};

/// A link that keeps the pieces it is given.
#[derive(Clone, Default)]
struct Kept {
    pieces: Arc<Mutex<Vec<Bytes>>>,
    /// Told of each piece.
    told: Option<mpsc::Sender<()>>,
    closed: Arc<AtomicBool>,
}

impl Link for Kept {
    fn connect(&self, _: Role) -> io::Result<Connection> {
        let closed = Arc::clone(&self.closed);
        Ok(Connection {
            tx: Box::new(self.clone()),
            rx: Box::new(io::empty()),
            closer: Closer::new(move || closed.store(true, Ordering::Release)),
            peer: Peer::unauthenticated("nobody"),
            one_sided: None,
        })
    }
}

impl SendHalf for Kept {
    fn lend(&mut self) -> io::Result<BytesMut> {
        Ok(send_buffer())
    }

    fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.pieces.lock().unwrap().push(bytes);
        if let Some(told) = &self.told {
            // Nobody need listen.
            let _ = told.send(());
        }
        Ok(())
    }

    fn give_back(&mut self, _: Bytes) {}

    fn stats(&mut self) -> SendStats {
        SendStats::default()
    }
}

impl Kept {
    fn lengths(&self) -> Vec<usize> {
        self.pieces
            .lock()
            .unwrap()
            .drain(..)
            .map(|piece| piece.len())
            .collect()
    }
}

fn paced(cap: Option<u64>) -> (Kept, Paced<Kept>, Connection) {
    let kept = Kept::default();
    let link = Paced::new(kept.clone());
    link.set_rate(cap.map(Rate));
    let connection = link.connect(Role::Control).unwrap();
    (kept, link, connection)
}

fn zeros(count: usize) -> Bytes {
    Bytes::from(vec![0; count])
}

#[test]
fn without_a_cap_all_is_sent_in_one_piece() {
    let (kept, link, mut connection) = paced(None);
    connection.tx.send(zeros(1 << 20)).unwrap();
    assert_eq!(kept.lengths(), [1 << 20]);
    link.set_rate(Some(Rate(1 << 40)));
    connection.tx.send(zeros(1 << 20)).unwrap();
    assert_eq!(kept.lengths(), [SLICE_BYTES; 16]);
    link.set_rate(None);
    connection.tx.send(zeros(1 << 20)).unwrap();
    assert_eq!(kept.lengths(), [1 << 20]);
}

#[test]
fn a_slow_link_is_shared_in_small_slices() {
    for (rate, bytes) in [
        (1, SLICE_BYTES_MIN),
        (250_000, 2500),
        (1 << 40, SLICE_BYTES),
    ] {
        assert_eq!(Pacer::new(Rate(rate), Instant::now()).slice_bytes(), bytes);
    }
}

#[test]
fn all_bytes_pass_in_order() {
    let (kept, _link, mut connection) = paced(Some(1 << 40));
    let data: Vec<u8> = (0..300_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
    for part in data.chunks(70_001) {
        connection.tx.send(Bytes::copy_from_slice(part)).unwrap();
    }
    assert_eq!(kept.pieces.lock().unwrap().concat(), data);
}

/// Sends what would take an hour under its cap. The test hangs if `act` does not change that.
fn woken_by(act: impl FnOnce(&Paced<Kept>, &Closer)) -> (io::Result<()>, usize) {
    let (told, hears) = mpsc::channel();
    let kept = Kept {
        told: Some(told),
        ..Kept::default()
    };
    let link = Paced::new(kept.clone());
    link.set_rate(Some(Rate(1)));
    let mut connection = link.connect(Role::Data(0)).unwrap();
    let closer = connection.closer.clone();
    let sending = thread::spawn(move || connection.tx.send(zeros(4096)));
    hears.recv().unwrap();
    thread::sleep(Duration::from_millis(20));
    act(&link, &closer);
    (sending.join().unwrap(), kept.lengths().iter().sum())
}

#[test]
fn a_waiter_is_woken_by_a_change_and_by_the_end() {
    let (sent, bytes) = woken_by(|link, _| link.set_rate(None));
    assert_eq!((sent.is_ok(), bytes), (true, 4096));
    let (sent, bytes) = woken_by(|link, _| link.set_rate(Some(Rate(1 << 40))));
    assert_eq!((sent.is_ok(), bytes), (true, 4096));
    let (sent, bytes) = woken_by(|_, closer| closer.close());
    assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(bytes, SLICE_BYTES_MIN);
}

#[test]
fn connections_share_one_cap() {
    let (kept, link, first) = paced(Some(1_000_000));
    let second = link.connect(Role::Data(0)).unwrap();
    let began = Instant::now();
    thread::scope(|scope| {
        for mut connection in [first, second] {
            scope.spawn(move || connection.tx.send(zeros(50_000)).unwrap());
        }
    });
    // Alone, each would have taken 50 ms.
    assert!(began.elapsed() >= Duration::from_millis(100) - BURST - Duration::from_millis(20));
    assert_eq!(kept.lengths().iter().sum::<usize>(), 100_000);
}

#[test]
fn the_rate_holds_over_any_stretch_but_for_one_burst() {
    let start = Instant::now();
    let mut pacer = Pacer::new(Rate(1_000_000), start);
    let mut now = start;
    let mut sent = 0u64;
    for step in 0..2000u64 {
        let bytes = 1 + step * 7919 % 5000;
        now += pacer.take(now, ByteCount(bytes));
        // Now and then the sender has nothing to send for a while.
        if step % 100 == 99 {
            now += Duration::from_millis(20);
        }
        sent += bytes;
        let allowed = 1e6 * (now.duration_since(start) + BURST).as_secs_f64() + 5000.0;
        assert!(sent as f64 <= allowed, "step {step}: {sent} of {allowed}");
    }
    let fastest = 1e6 * now.duration_since(start).as_secs_f64();
    assert!(
        sent as f64 > fastest * 0.8,
        "{sent} of {fastest}: the cap is also reached"
    );
}

#[test]
fn what_a_cap_holds_back_counts_as_queued() {
    let (_kept, link, mut connection) = paced(Some(10_000));
    connection.tx.send(zeros(1024)).unwrap();
    let stats = connection.tx.stats();
    let queue = stats.queue.unwrap();
    assert_eq!(queue.queued_bytes, queue.capacity_bytes, "full");
    assert_eq!(stats.rate_cap, Some(Rate(10_000)));
    link.set_rate(None);
    assert_eq!(connection.tx.stats(), SendStats::default());
}
