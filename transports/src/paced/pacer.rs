//! When bytes may leave under a cap.

use std::time::{Duration, Instant};

use pagelift_engine::transport::SendQueue;
use pagelift_engine::units::{ByteCount, Rate};

/// How far ahead of the capped rate a sender may run. Long enough for a thread that slept too
/// long to catch up, short enough that nobody sees it.
pub(super) const BURST: Duration = Duration::from_millis(5);

/// Most bytes of a slice.
pub(super) const SLICE_BYTES: usize = 64 << 10;

/// Fewest bytes of a slice.
pub(super) const SLICE_BYTES_MIN: usize = 512;

/// What one slice may take of a slow link. A message may have to wait for a slice of every other
/// connection: with the most connections, 64, that is well below the silence after which the
/// other side counts as dead.
const SLICE_TIME: Duration = Duration::from_millis(10);

/// A leaky bucket in its virtual scheduling form (GCRA, ITU-T I.371): keeps the time at which
/// everything sent so far would have left at the capped rate. A sender waits until that time is less
/// than [`BURST`] ahead. Pure: the time is an argument.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacer {
    rate: Rate,
    /// When everything sent so far has left at the capped rate.
    free_at: Instant,
}

impl Pacer {
    /// Caps at `rate`, which is at least 1 byte per second, from `now` on.
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate: Rate(rate.0.max(1)),
            free_at: now,
        }
    }

    /// Bytes to send at a time: what the rate allows in [`SLICE_TIME`], within bounds.
    pub(super) fn slice_bytes(&self) -> usize {
        let bytes = self.rate.0 as f64 * SLICE_TIME.as_secs_f64();
        (bytes as usize).clamp(SLICE_BYTES_MIN, SLICE_BYTES)
    }

    /// The cap.
    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// What was taken and has not left at the capped rate, of what may be ahead of it.
    pub(super) fn queue(&self, now: Instant) -> SendQueue {
        let ahead = self.free_at.saturating_duration_since(now).min(BURST);
        let bytes = |time: Duration| (self.rate.0 as f64 * time.as_secs_f64()) as u64;
        SendQueue {
            queued_bytes: bytes(ahead),
            capacity_bytes: bytes(BURST).max(1),
        }
    }

    /// Takes note that `bytes` are about to leave; how long to wait before they may.
    pub(super) fn take(&mut self, now: Instant, bytes: ByteCount) -> Duration {
        let start = self.free_at.max(now);
        let wait = start.saturating_duration_since(now).saturating_sub(BURST);
        self.free_at = start + bytes.time_at(self.rate).unwrap_or_default();
        wait
    }
}
