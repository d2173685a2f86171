//! A share of the guest's time.

use std::fmt;
use std::time::Duration;

/// The share of its time that a guest is kept from running, in permille.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThrottleShare(u16);

impl ThrottleShare {
    /// The guest runs freely.
    pub const NONE: Self = Self(0);

    /// The largest share: a guest that never ran would not be throttled but stopped.
    pub const MOST: Self = Self(990);

    /// A share of `permille`, at most [`MOST`](Self::MOST).
    pub const fn permille(permille: u16) -> Self {
        if permille < Self::MOST.0 {
            Self(permille)
        } else {
            Self::MOST
        }
    }

    /// A share as a fraction, rounded up, so that what was computed as enough still is.
    pub fn fraction(fraction: f64) -> Self {
        // The clamp keeps it within the type; a fraction that is no number is none.
        Self::permille((fraction.clamp(0.0, 1.0) * 1000.0).ceil() as u16)
    }

    /// The share in permille, 0 to 990.
    pub fn as_permille(self) -> u16 {
        self.0
    }

    /// The share as a fraction, 0 to 0.99.
    pub fn as_fraction(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// The time that a guest throttled so gets to run, out of `time`.
    pub fn guest_time(self, time: Duration) -> Duration {
        time.mul_f64(1.0 - self.as_fraction())
    }
}

impl fmt::Display for ThrottleShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} %", self.as_fraction() * 100.0)
    }
}
