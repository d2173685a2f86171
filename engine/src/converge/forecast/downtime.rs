//! The downtime forecast: how long the guest would stand still if it were stopped now.
//!
//! The parts beside the pages were measured in advance (`estimate/calibration`); the pages that are
//! left take what such pages took in the last rounds. Each part is an [`Interval`].

use std::time::Duration;

use crate::converge::estimate::interval::{DEVIATIONS, finite};
use crate::converge::estimate::page_cost::LEAST_SIGMA;
use crate::converge::{Interval, Observation, PageTime};
use crate::units::{ByteCount, Rate};

/// A downtime by its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DowntimeForecast {
    /// From the guest's standstill until the source knows of it.
    pub stop: Interval,
    /// Harvesting the last dirty pages.
    pub harvest: Interval,
    /// Sending the last pages, until the source knows that all are placed.
    pub pages: Interval,
    /// Saving, sending and loading the device state.
    pub state: Interval,
    /// Relinquishing the guest on the source and starting it on the target.
    pub hand_over: Interval,
}

impl DowntimeForecast {
    /// The downtime if the guest were stopped now, without the digests of verify mode; `None` while
    /// no rate is known.
    ///
    /// The pages are those that are left and those that the guest writes before it stands still.
    pub fn of(seen: &Observation) -> Option<Self> {
        Self::parts(seen, seen.left.0 as f64, seen.in_flight.0 as f64)
    }

    /// The whole downtime.
    pub fn total(&self) -> Interval {
        [self.harvest, self.pages, self.state, self.hand_over]
            .into_iter()
            .fold(self.stop, Interval::then)
    }

    fn parts(seen: &Observation, left: f64, in_flight: f64) -> Option<Self> {
        let fixed = seen.fixed;
        let page = match seen.time_of_page() {
            Some(page) => page,
            None if left + in_flight == 0.0 => PageTime {
                seconds: 0.0,
                sigma: 0.0,
            },
            None => return None,
        };
        // What is in flight arrives while the guest is being stopped.
        let link = seen.link.map_or(f64::INFINITY, |link| link.0.max(1) as f64);
        let meanwhile = fixed.stop_latency.likely() + fixed.stop.likely() + fixed.harvest.likely();
        let drain = (in_flight / link - meanwhile.as_secs_f64()).max(0.0);
        // Written while it is being stopped, at one to two times the pace of the last round.
        let pace = seen.harvested.0 as f64 / seen.between_harvests.as_secs_f64().max(1e-4);
        let late = pace * fixed.stop_latency.likely().as_secs_f64();
        let late_most = 2.0 * pace * fixed.stop_latency.high().as_secs_f64();
        let sending = (left + late) * page.seconds + drain;
        let factor = (page.sigma * DEVIATIONS).exp();
        let more = (sending * (factor - 1.0)).hypot((late_most - late) * page.seconds);
        // What is in flight may have arrived, with its acknowledgement on the way back.
        let sending = Interval::new(
            finite(left * page.seconds / factor),
            finite(sending),
            finite(sending + more),
        );
        Some(Self {
            stop: fixed.stop,
            harvest: fixed.harvest,
            pages: fixed.ack_latency.then(sending),
            state: fixed.state,
            hand_over: fixed.hand_over,
        })
    }
}

impl Observation {
    /// Bytes that the link still has to carry.
    pub fn bytes_left(&self) -> ByteCount {
        let left = (self.left.0 as f64 * self.bytes_per_page) as u64;
        ByteCount(self.in_flight.0.saturating_add(left))
    }

    /// Whether stopping now keeps the downtime within `limit`, by the upper end of its forecast.
    pub fn fits(&self, limit: Duration) -> bool {
        DowntimeForecast::of(self).is_some_and(|parts| parts.total().high() <= limit)
    }

    /// Time of a page that is sent again; `None` while no rate is known.
    fn time_of_page(&self) -> Option<PageTime> {
        let by_link = |link: Rate| PageTime {
            seconds: self.bytes_per_page / link.0 as f64,
            sigma: LEAST_SIGMA,
        };
        self.page_time
            .or_else(|| self.link.filter(|link| link.0 > 0).map(by_link))
    }

    /// Seconds that a round of `pages` pages is likely to take; `None` while no rate is known.
    pub fn round_seconds(&self, pages: f64) -> Option<f64> {
        Some(pages * self.time_of_page()?.seconds)
    }

    /// Most pages that may be left for a downtime of at most `limit`, by the upper end of its
    /// forecast; `None` if the downtime is longer without a page.
    pub fn most_left(&self, limit: Duration) -> Option<f64> {
        let fits = |pages: f64| {
            let parts = DowntimeForecast::parts(self, pages, 0.0);
            parts.is_some_and(|parts| parts.total().high() <= limit)
        };
        if !fits(0.0) {
            return None;
        }
        // The upper end grows with the pages: bisection between what fits and what does not.
        let (mut fitting, mut too_many) = (0.0, 1024.0);
        while fits(too_many) && too_many < 1e12 {
            (fitting, too_many) = (too_many, too_many * 2.0);
        }
        for _ in 0..20 {
            let middle = (fitting + too_many) / 2.0;
            if fits(middle) {
                fitting = middle;
            } else {
                too_many = middle;
            }
        }
        Some(fitting)
    }
}

#[cfg(test)]
pub(in crate::converge) mod tests {
    use super::*;
    use crate::converge::{FixedCosts, ThrottleResponse, ThrottleShare};
    use crate::units::{Instant, PageCount};

    /// A round end with `left` pages and a link of 100 MB/s.
    pub(in crate::converge) fn seen(at_ms: u64, round: u32, left: u64) -> Observation {
        Observation {
            now: Instant(at_ms * 1_000_000),
            elapsed: Duration::from_millis(at_ms),
            round,
            round_ended: true,
            left: PageCount(left),
            held: PageCount(0),
            held_written: PageCount(0),
            in_flight: ByteCount(0),
            bytes_per_page: 4096.0,
            round_page_bytes: 4096.0,
            page_time: None,
            link: Some(Rate(100_000_000)),
            dirty: Some(Rate(50_000_000)),
            fixed: FixedCosts::lump(Interval::exactly(Duration::from_millis(10))),
            harvested: PageCount(left),
            between_harvests: Duration::from_millis(1000),
            throttled: ThrottleShare::NONE,
            response: ThrottleResponse::default(),
            placed: ByteCount(0),
        }
    }

    fn likely(seen: &Observation) -> Option<Duration> {
        Some(DowntimeForecast::of(seen)?.total().likely())
    }

    #[test]
    fn a_forecast_adds_what_is_in_flight_and_the_fixed_costs() {
        let mut seen = seen(0, 2, 1000);
        assert_eq!(likely(&seen), Some(Duration::from_micros(10_000 + 40_960)));
        seen.in_flight = ByteCount(1_000_000);
        assert_eq!(likely(&seen), Some(Duration::from_micros(20_000 + 40_960)));
        // A part of it arrives before the guest stands still.
        seen.fixed.stop = Interval::exactly(Duration::from_millis(4));
        assert_eq!(likely(&seen), Some(Duration::from_micros(20_000 + 40_960)));
    }

    #[test]
    fn without_a_rate_only_an_empty_set_can_be_forecast() {
        let mut seen = Observation {
            link: None,
            ..seen(0, 1, 1)
        };
        assert_eq!(DowntimeForecast::of(&seen), None);
        seen.left = PageCount(0);
        assert_eq!(likely(&seen), Some(seen.fixed.total().likely()));
    }

    #[test]
    fn an_unsure_page_time_widens_the_interval_and_so_does_a_guest_that_runs_on() {
        let sure = seen(0, 2, 1000);
        let total = |seen: &Observation| DowntimeForecast::of(seen).unwrap().total();
        let unsure = Observation {
            page_time: Some(PageTime {
                seconds: 40.96e-6,
                sigma: 0.5,
            }),
            ..sure
        };
        assert_eq!(total(&unsure).likely(), total(&sure).likely());
        assert!(total(&unsure).high() > total(&sure).high() + Duration::from_millis(30));
        let mut running = sure;
        running.fixed.stop_latency = Interval::exactly(Duration::from_millis(10));
        // 1000 pages a second: ten more.
        let more = total(&running).likely() - total(&sure).likely();
        assert_eq!(more.as_micros(), 409);
    }

    #[test]
    fn the_most_that_may_be_left_just_fits() {
        let limit = Duration::from_millis(50);
        let seen = seen(0, 2, 1000);
        let most = seen.most_left(limit).unwrap();
        let high = |pages: f64| {
            DowntimeForecast::parts(&seen, pages, 0.0)
                .unwrap()
                .total()
                .high()
        };
        assert!(high(most) <= limit && high(most + 2.0) > limit, "{most}");
        assert_eq!(seen.most_left(Duration::from_millis(9)), None);
    }
}
