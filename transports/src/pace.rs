//! A cap on the rate of a link, shared by all its connections, that may change at any time.
//!
//! [`Pacer`] is the virtual scheduling form of a leaky bucket (GCRA, ITU-T I.371): it keeps the
//! time at which everything sent so far would have left at the capped rate. Who sends waits
//! until that time is less than [`BURST`] ahead. Pure: the time is an argument.
//!
//! [`Cap`] is a pacer, or none, that several threads share. [`PacedWriter`] keeps to it, in
//! slices small enough that a control message does not wait long behind pages. Who waits is
//! woken when the cap changes, and when its connection is closed. Without a cap a write costs
//! one atomic load more than it would otherwise.

#[cfg(test)]
mod tests;

use std::io::{self, IoSlice, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pagelift_engine::transport::Held;
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

/// A cap on the rate of several connections together, or none. Clones are the same cap.
#[derive(Clone, Debug, Default)]
pub struct Cap(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The rate once more, in bytes per second, to be read without the lock; 0 without a cap.
    rate: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    pacer: Option<Pacer>,
    /// How often the cap was changed.
    changes: u64,
}

impl Cap {
    /// A cap at `rate`, or none yet.
    pub fn new(rate: Option<Rate>) -> Self {
        let cap = Self::default();
        cap.set(rate);
        cap
    }

    /// Caps at `rate` from now on; `None` lifts the cap. Who waits goes on at once: a change may
    /// let every connection write one slice out of turn.
    pub fn set(&self, rate: Option<Rate>) {
        let mut state = self.lock();
        state.pacer = rate.map(|rate| Pacer::new(rate, Instant::now()));
        state.changes += 1;
        let rate = state.pacer.map_or(0, |pacer| pacer.rate.0);
        self.0.rate.store(rate, Ordering::Release);
        drop(state);
        self.0.changed.notify_all();
    }

    /// The rate it caps at.
    pub fn rate(&self) -> Option<Rate> {
        Some(Rate(self.0.rate.load(Ordering::Acquire))).filter(|rate| rate.0 > 0)
    }

    /// The pacer as it stands.
    pub(crate) fn pacer(&self) -> Option<Pacer> {
        self.rate()?;
        self.lock().pacer
    }

    /// Bytes that a connection may write at a time; `None` without a cap.
    fn slice_bytes(&self) -> Option<usize> {
        self.pacer().map(|pacer| pacer.slice_bytes())
    }

    /// Waits until `bytes` may leave, the cap changes, or the gate is closed.
    fn wait_for(&self, bytes: usize, gate: &Gate) {
        let mut state = self.lock();
        let now = Instant::now();
        let Some(pacer) = &mut state.pacer else {
            return;
        };
        let until = now + pacer.take(now, ByteCount(bytes as u64));
        let changes = state.changes;
        while state.changes == changes && !gate.is_closed() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a connection's writer go on waiting, until it is closed. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    closed: Arc<AtomicBool>,
    cap: Cap,
}

impl Gate {
    /// A gate for a connection that `cap` is for.
    pub fn new(cap: &Cap) -> Self {
        Self {
            closed: Arc::default(),
            cap: cap.clone(),
        }
    }

    /// Nobody waits at it any more, or ever will.
    pub fn close(&self) {
        {
            // Under the lock, or a writer might look just before and wait just after.
            let _state = self.cap.lock();
            self.closed.store(true, Ordering::Release);
        }
        self.cap.0.changed.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// A writer that keeps to a cap.
#[derive(Debug)]
pub struct PacedWriter<W> {
    inner: W,
    gate: Gate,
}

impl<W: Write> PacedWriter<W> {
    /// Writes to `inner` no faster than the gate's cap lets all its writers together.
    pub fn new(inner: W, gate: Gate) -> Self {
        Self { inner, gate }
    }
}

impl<W: Write> Write for PacedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(most) = self.gate.cap.slice_bytes() else {
            return self.inner.write(bytes);
        };
        let slice = &bytes[..bytes.len().min(most)];
        self.gate.cap.wait_for(slice.len(), &self.gate);
        // What the stream does not take is paid for twice; it is less than a slice.
        self.inner.write(slice)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(most) = self.gate.cap.slice_bytes() else {
            return self.inner.write_vectored(parts);
        };
        // Small leading parts (headers) go out with the start of what follows them.
        let mut slices = [IoSlice::new(&[]); 4];
        let mut room = most;
        for (slice, part) in slices.iter_mut().zip(parts) {
            let taken = part.len().min(room);
            *slice = IoSlice::new(&part[..taken]);
            room -= taken;
        }
        self.gate.cap.wait_for(most - room, &self.gate);
        self.inner.write_vectored(&slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
