//! The share of its time by which a guest is throttled.

use std::fmt;
use std::time::Duration;

/// Share of the time for which a guest is kept from running, in permille, 0 to 990.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThrottleShare(u16);

impl ThrottleShare {
    /// No throttle.
    pub const NONE: Self = Self(0);

    /// The strongest throttle: a guest that never ran would be stopped.
    pub const MOST: Self = Self(990);

    /// A share of `permille`, limited to [`MOST`](Self::MOST).
    pub const fn permille(permille: u16) -> Self {
        if permille < Self::MOST.0 {
            Self(permille)
        } else {
            Self::MOST
        }
    }

    /// A share as a fraction, rounded up, so that one that was computed as enough still is.
    /// Limited to [`MOST`](Self::MOST); no number counts as 0.
    pub fn fraction(fraction: f64) -> Self {
        Self::permille((fraction.clamp(0.0, 1.0) * 1000.0).ceil() as u16)
    }

    /// The share in permille, 0 to 990.
    pub const fn as_permille(self) -> u16 {
        self.0
    }

    /// The share as a fraction, 0 to 0.99.
    pub fn as_fraction(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// Time for which a guest under this throttle runs, out of `time`.
    pub fn guest_time(self, time: Duration) -> Duration {
        time.mul_f64(1.0 - self.as_fraction())
    }
}

impl fmt::Display for ThrottleShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} %", self.as_fraction() * 100.0)
    }
}
