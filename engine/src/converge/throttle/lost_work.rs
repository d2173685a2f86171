//! The part of its work that a guest loses.

use std::time::Duration;

/// The part of its work that a guest loses to a throttle, 0 to 1.
///
/// Not the throttle's own share, which is one of time:
/// [`ThrottleResponse::lost`](super::ThrottleResponse::lost) gives one for the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct LostWork(f64);

impl LostWork {
    /// Nothing is lost.
    pub const NONE: Self = Self(0.0);

    /// The part `part`, limited to 0 to 1; no number counts as 0.
    #[allow(
        clippy::manual_clamp,
        reason = "max and min make 0 of what is no number; clamp keeps it"
    )]
    pub fn part(part: f64) -> Self {
        Self(part.max(0.0).min(1.0))
    }

    /// As a fraction, 0 to 1.
    pub fn as_fraction(self) -> f64 {
        self.0
    }

    /// Guest time: the time in which the guest would do at full speed what it does in `time`.
    pub fn guest_time(self, time: Duration) -> Duration {
        time.mul_f64(1.0 - self.0)
    }
}
