//! How long the guest would stand still if it were stopped now.

use std::time::Duration;

use super::Share;
use crate::units::{ByteCount, Instant, PageCount, Rate};

/// What a policy may know at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// The moment.
    pub now: Instant,
    /// Time since the migration began.
    pub elapsed: Duration,
    /// The round that just ended, or is under way; from 1.
    pub round: u32,
    /// Whether a round just ended: `left` is then the whole set to send, freshly harvested.
    pub round_ended: bool,
    /// Pages known to need sending.
    pub left: PageCount,
    /// Pages among those left that were not sent in the round, but held back.
    pub held: PageCount,
    /// Bytes sent and not yet placed by the target.
    pub in_flight: ByteCount,
    /// Mean bytes on the wire of a page, of the last rounds.
    pub bytes_per_page: f64,
    /// Rate at which the target places data; `None` before anything was placed.
    pub link: Option<Rate>,
    /// Rate at which the guest writes distinct pages, over the last round; `None` before the
    /// first harvest.
    pub dirty: Option<Rate>,
    /// Cost of a blackout with nothing to send: stop, harvest, device state, hand-over.
    pub fixed: Duration,
    /// Distinct pages written between the last two harvests.
    pub harvested: PageCount,
    /// Time between the last two harvests.
    pub interval: Duration,
    /// Share of its time that the guest was kept from running meanwhile.
    pub throttled: Share,
    /// Bytes placed by the target so far.
    pub placed: ByteCount,
}

/// The blackout that stopping now would cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Bytes that the link still has to carry.
    pub bytes: ByteCount,
    /// Time from the guest's stop here to its start there. `None`: no rate is known yet.
    pub blackout: Option<Duration>,
}

impl Forecast {
    /// `fixed + (in flight + pages left * bytes per page) / link rate`.
    pub fn of(seen: &Observation) -> Self {
        let left = (seen.left.0 as f64 * seen.bytes_per_page) as u64;
        let bytes = ByteCount(seen.in_flight.0.saturating_add(left));
        let sending = match (bytes.0, seen.link) {
            (0, _) => Some(Duration::ZERO),
            (_, Some(rate)) => bytes.time_at(rate),
            (_, None) => None,
        };
        Self {
            bytes,
            blackout: sending.map(|sending| seen.fixed + sending),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A round end with `left` pages and a link of 100 MB/s.
    pub(in crate::converge) fn seen(at_ms: u64, round: u32, left: u64) -> Observation {
        Observation {
            now: Instant(at_ms * 1_000_000),
            elapsed: Duration::from_millis(at_ms),
            round,
            round_ended: true,
            left: PageCount(left),
            held: PageCount(0),
            in_flight: ByteCount(0),
            bytes_per_page: 4096.0,
            link: Some(Rate(100_000_000)),
            dirty: Some(Rate(50_000_000)),
            fixed: Duration::from_millis(10),
            harvested: PageCount(left),
            interval: Duration::from_millis(1000),
            throttled: Share::NONE,
            placed: ByteCount(0),
        }
    }

    #[test]
    fn a_forecast_adds_what_is_in_flight_and_the_fixed_costs() {
        let mut seen = seen(0, 2, 1000);
        assert_eq!(
            Forecast::of(&seen).blackout,
            Some(Duration::from_micros(10_000 + 40_960))
        );
        seen.in_flight = ByteCount(1_000_000);
        assert_eq!(
            Forecast::of(&seen).blackout,
            Some(Duration::from_micros(20_000 + 40_960))
        );
    }

    #[test]
    fn without_a_rate_only_an_empty_set_can_be_forecast() {
        let mut seen = Observation {
            link: None,
            ..seen(0, 1, 1)
        };
        assert_eq!(Forecast::of(&seen).blackout, None);
        seen.left = PageCount(0);
        assert_eq!(Forecast::of(&seen).blackout, Some(seen.fixed));
    }
}
