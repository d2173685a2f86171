//! A cap on the rate of a link, shared by all its connections.
//!
//! [`Pacer`] is the virtual scheduling form of a leaky bucket (GCRA, ITU-T I.371): it keeps the
//! time at which everything sent so far would have left at the capped rate. Who sends waits
//! until that time is less than [`BURST`] ahead. Pure: the time is an argument.
//!
//! [`PacedWriter`] applies it to a byte stream, in slices small enough that a control message
//! does not wait long behind pages.

use std::io::{self, IoSlice, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pagelift_engine::pipeline::Held;
use pagelift_engine::units::{ByteCount, Rate};

/// How far ahead of the capped rate a sender may run. Long enough for a thread that slept too
/// long to catch up, short enough that nobody sees it.
pub const BURST: Duration = Duration::from_millis(5);

/// Most bytes written between two looks at the pacer.
const SLICE_BYTES: usize = 64 << 10;

/// Fewest; a slice is otherwise what the rate allows in [`SLICE_TIME`].
const SLICE_BYTES_MIN: usize = 512;

/// What one slice may take of a slow link. A message may have to wait for a slice of every other
/// connection: with the most connections, 64, that is well below the silence after which the
/// other side counts as dead.
const SLICE_TIME: Duration = Duration::from_millis(10);

/// Decides when bytes may leave.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    rate: Rate,
    /// When everything sent so far has left at the capped rate.
    free_at: Instant,
}

impl Pacer {
    /// Caps at `rate`, which is at least 1 byte per second, from `now` on.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate: Rate(rate.0.max(1)),
            free_at: now,
        }
    }

    /// Bytes to write at a time.
    fn slice_bytes(&self) -> usize {
        let bytes = self.rate.0 as f64 * SLICE_TIME.as_secs_f64();
        (bytes as usize).clamp(SLICE_BYTES_MIN, SLICE_BYTES)
    }

    /// The cap.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// What was taken and has not left at the capped rate, of what may be ahead of it.
    pub fn held(&self, now: Instant) -> Held {
        let ahead = self.free_at.saturating_duration_since(now).min(BURST);
        let bytes = |time: Duration| (self.rate.0 as f64 * time.as_secs_f64()) as u64;
        Held {
            bytes: bytes(ahead),
            room_bytes: bytes(BURST).max(1),
        }
    }

    /// Takes note that `bytes` are about to leave; how long to wait before they may.
    pub fn take(&mut self, now: Instant, bytes: ByteCount) -> Duration {
        let start = self.free_at.max(now);
        let wait = start.saturating_duration_since(now).saturating_sub(BURST);
        self.free_at = start + bytes.time_at(self.rate).unwrap_or_default();
        wait
    }
}

/// A writer that keeps to a pacer.
#[derive(Debug)]
pub struct PacedWriter<W> {
    inner: W,
    pacer: Arc<Mutex<Pacer>>,
    slice_bytes: usize,
}

impl<W: Write> PacedWriter<W> {
    /// Writes to `inner` no faster than `pacer` lets all its writers together.
    pub fn new(inner: W, pacer: Arc<Mutex<Pacer>>) -> Self {
        let slice_bytes = pacer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .slice_bytes();
        Self {
            inner,
            pacer,
            slice_bytes,
        }
    }

    fn wait_for(&self, bytes: usize) {
        let bytes = ByteCount(bytes as u64);
        let wait = {
            let mut pacer = self.pacer.lock().unwrap_or_else(PoisonError::into_inner);
            pacer.take(Instant::now(), bytes)
        };
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }
}

impl<W: Write> Write for PacedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let slice = &bytes[..bytes.len().min(self.slice_bytes)];
        self.wait_for(slice.len());
        // What the stream does not take is paid for twice; it is less than a slice.
        self.inner.write(slice)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        // Small leading parts (headers) go out with the start of what follows them.
        let mut slices = [IoSlice::new(&[]); 4];
        let mut room = self.slice_bytes;
        for (slice, part) in slices.iter_mut().zip(parts) {
            let taken = part.len().min(room);
            *slice = IoSlice::new(&part[..taken]);
            room -= taken;
        }
        self.wait_for(self.slice_bytes - room);
        self.inner.write_vectored(&slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_slow_link_is_shared_in_small_slices() {
        for (rate, bytes) in [(1, 512), (250_000, 2500), (1 << 40, SLICE_BYTES)] {
            let pacer = Arc::new(Mutex::new(Pacer::new(Rate(rate), Instant::now())));
            let mut writer = PacedWriter::new(io::sink(), pacer);
            assert_eq!(writer.write(&[0; 1 << 20]).unwrap(), bytes);
        }
    }

    #[test]
    fn all_bytes_pass_in_order() {
        let pacer = Arc::new(Mutex::new(Pacer::new(Rate(1 << 40), Instant::now())));
        let mut writer = PacedWriter::new(Vec::new(), pacer);
        let data: Vec<u8> = (0..300_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
        let mut rest = &data[..];
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(rest.len() / 3);
            let written = writer
                .write_vectored(&[IoSlice::new(head), IoSlice::new(tail)])
                .unwrap();
            rest = &rest[written..];
        }
        assert_eq!(writer.inner, data);
    }
}
