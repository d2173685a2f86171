//! How far the link is behind, from a connection's buffer that holds several blocks.
//!
//! Full, and the thread will wait for the link, so bytes are dear; empty, and the link waits for
//! the thread, so bytes are cheap and the thread's time is not. The scarcity is an exponential of
//! how far the buffer is from half full, now and summed up over the past: a controller with a
//! proportional and an integral part. It settles where the buffer is half full and neither waits,
//! or at one of its ends, where one of them must.

use super::Outcome;

/// What a buffer is taken to hold that does not say.
const UNKNOWN_BYTES: f64 = 256e3;

/// Room from which on a buffer evens out what the thread and the link do: several packed blocks.
const ROOMY_BYTES: f64 = 450e3;

/// By how much a full buffer raises the logarithm of the scarcity, and an empty one lowers it.
const GAIN: f64 = 1.5;

/// By how much it does so for good, with every block of the full size.
const DRIFT: f64 = 0.08;

/// Bounds of what has added up.
const MOST_DRIFT: f64 = 7.0;

/// Bytes of a block of the full size.
const BLOCK_BYTES: f64 = 256e3;

/// A connection's buffer.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    /// What it holds at most, in bytes.
    room: f64,
    /// How full it is, 0 to 1.
    filling: f64,
    /// Sum of past deviations of the filling from a half.
    drift: f64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            room: UNKNOWN_BYTES,
            filling: 0.5,
            drift: 0.0,
        }
    }

    /// What it holds at most, in bytes.
    pub(super) fn room(&self) -> f64 {
        self.room
    }

    /// Whether it holds enough for the thread and the link to go on at once.
    pub(super) fn is_roomy(&self) -> bool {
        self.room >= ROOMY_BYTES
    }

    /// How scarce the link's time is, 1 if it is as scarce as the thread's.
    pub(super) fn scarcity(&self) -> f64 {
        (self.drift + GAIN * (2.0 * self.filling - 1.0)).exp()
    }

    /// Takes note of what it held when a block was written, and how much can be. Returns how full
    /// it was; `None` if it cannot tell.
    pub(super) fn seen(&mut self, outcome: &Outcome) -> Option<f64> {
        let held = outcome.unsent_bytes? as f64;
        self.room = (outcome.buffer_bytes? as f64).max(1.0);
        Some((held / self.room).min(1.0))
    }

    /// A block of so many bytes was written to it when it was so full.
    pub(super) fn filled(&mut self, filling: f64, input_bytes: u64) {
        let size = (input_bytes as f64 / BLOCK_BYTES).min(1.0);
        self.filling = filling;
        self.drift =
            (self.drift + DRIFT * size * (2.0 * filling - 1.0)).clamp(-MOST_DRIFT, MOST_DRIFT);
    }
}
