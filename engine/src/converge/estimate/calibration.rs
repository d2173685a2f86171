//! Calibration: measures the parts of the downtime beside the pages, before it comes.
//!
//! | part | measured by |
//! |---|---|
//! | stop, device state, hand-over | the embedder ([`SwitchoverCosts`]), without stopping the guest |
//! | harvest | the harvests of the rounds |
//! | messages | pings over the control connection, from the handshake on |
//! | waiting for a processor | [`SchedulingDelay`] |
//!
//! Pings that share the link with pages, or come while the two sides set themselves up, measure
//! more than the path, which is free when the messages of the hand-over go. The first few count
//! alone; if they were slow, the pings between rounds replace them (docs/decisions/032).

use std::time::Duration;

use super::{Interval, SchedulingDelay};
use crate::units::Instant;

/// Costs of stopping a guest on the source and starting it on the target, without the messages
/// between them.
///
/// The default is for a guest of which nothing is known: a process whose threads are parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchoverCosts {
    /// From the guest's standstill until the source knows of it.
    pub stop: Interval,
    /// From the request to stop until the guest stands still; it writes meanwhile.
    pub stop_latency: Interval,
    /// Saving the device state on the source, and loading it on the target.
    pub state: Interval,
    /// Relinquishing the guest on the source, and starting it on the target.
    pub hand_over: Interval,
}

impl Default for SwitchoverCosts {
    fn default() -> Self {
        let interval = |low, likely, high| {
            let us = Duration::from_micros;
            Interval::new(us(low), us(likely), us(high))
        };
        Self {
            stop: interval(0, 500, 2000),
            stop_latency: interval(0, 200, 2000),
            state: interval(50, 500, 3000),
            hand_over: interval(10, 200, 2000),
        }
    }
}

/// The parts of a downtime beside its pages, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FixedCosts {
    /// From the guest's standstill until the source knows of it.
    pub stop: Interval,
    /// Harvesting the last dirty pages.
    pub harvest: Interval,
    /// The acknowledgement of the last page.
    pub ack_latency: Interval,
    /// Saving, sending and loading the device state.
    pub state: Interval,
    /// Relinquishing the guest on the source and starting it on the target.
    pub hand_over: Interval,
    /// From the request to stop until the guest stands still; not a part of the downtime.
    pub stop_latency: Interval,
}

impl FixedCosts {
    /// Costs of which only the sum is known; it counts as device state.
    pub fn lump(sum: Interval) -> Self {
        Self {
            state: sum,
            ..Self::default()
        }
    }

    /// The downtime with no page to send.
    pub fn total(&self) -> Interval {
        [self.harvest, self.ack_latency, self.state, self.hand_over]
            .into_iter()
            .fold(self.stop, Interval::then)
    }
}

/// Wake-ups in each part, of both sides together, counted along the code of `pipeline`.
mod wakes {
    /// The guest's own threads, and the coordinator.
    pub(super) const STOP: f64 = 2.0;
    /// A data channel on either side, the control reader, the coordinator.
    pub(super) const ACK_LATENCY: f64 = 3.0;
    /// On the target reader, coordinator, and the loader of the state with its threads; on the
    /// source reader and coordinator.
    pub(super) const STATE: f64 = 8.0;
    /// Reader and coordinator on either side.
    pub(super) const HAND_OVER: f64 = 4.0;
}

/// Pings that count.
const PINGS: usize = 5;

/// Round trip before one was measured: low, likely and high.
const UNKNOWN_TRIP: [Duration; 3] = [
    Duration::from_micros(50),
    Duration::from_micros(500),
    Duration::from_millis(5),
];

/// Added to the device state after digests of all memory: the threads that computed them have used
/// up their share of the processors and wait for a few ticks of the scheduler.
const BEHIND_DIGESTS: Interval = Interval::in_order([
    Duration::ZERO,
    Duration::from_micros(500),
    Duration::from_millis(12),
]);

/// Harvests kept.
const HARVESTS: usize = 8;

/// What was measured so far.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    /// How late threads get to run.
    pub scheduling_delay: SchedulingDelay,
    switchover: SwitchoverCosts,
    asked: Option<Instant>,
    trips: Vec<Duration>,
    harvests: Vec<Duration>,
}

impl Calibration {
    /// The embedder's costs have changed.
    pub fn switchover(&mut self, costs: SwitchoverCosts) {
        self.switchover = costs;
    }

    /// Whether another ping is wanted while pages are under way.
    pub fn wants_ping(&self) -> bool {
        self.trips.len() < PINGS && !self.awaits_pong()
    }

    /// Whether a ping is under way.
    pub fn awaits_pong(&self) -> bool {
        self.asked.is_some()
    }

    /// A ping goes out.
    pub fn pinged(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// The answer to a ping came in. It counts if it is one of the first few, or quicker than the
    /// slowest of those.
    pub fn ponged(&mut self, now: Instant) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        let trip = now.since(asked);
        if self.trips.len() < PINGS {
            self.trips.push(trip);
        } else if let Some(slowest) = self.trips.iter_mut().max() {
            *slowest = trip.min(*slowest);
        }
    }

    /// A harvest took `took`.
    pub fn harvested(&mut self, took: Duration) {
        if self.harvests.len() == HARVESTS {
            self.harvests.remove(0);
        }
        self.harvests.push(took);
    }

    /// A message and its answer.
    pub fn round_trip(&self) -> Interval {
        let [low, likely, high] = UNKNOWN_TRIP;
        let mut trips = self.trips.clone();
        trips.sort_unstable();
        let Some(least) = trips.first().copied() else {
            return Interval::new(low, likely, high);
        };
        let median = trips[trips.len() / 2];
        let more = median - least;
        Interval::new(
            low.min(least / 2),
            least + more / 4,
            median + more / 2 + least / 4,
        )
    }

    /// The parts of a downtime beside its pages, with digests of all memory if `verify`.
    pub fn costs(&self, verify: bool) -> FixedCosts {
        let wait = |wakes| self.scheduling_delay.over(wakes);
        let trip = self.round_trip();
        let state = self.switchover.state.then(trip).then(wait(wakes::STATE));
        FixedCosts {
            stop: self.switchover.stop.then(wait(wakes::STOP)),
            harvest: self.harvest(),
            ack_latency: trip.then(wait(wakes::ACK_LATENCY)),
            state: if verify {
                state.then(BEHIND_DIGESTS)
            } else {
                state
            },
            hand_over: self
                .switchover
                .hand_over
                .then(trip)
                .then(wait(wakes::HAND_OVER)),
            stop_latency: self.switchover.stop_latency,
        }
    }

    /// The last harvest finds few pages, and so do the quickest ones of the rounds.
    fn harvest(&self) -> Interval {
        let least = self.harvests.iter().min().copied().unwrap_or_default();
        let most = self.harvests.iter().max().copied().unwrap_or_default();
        Interval::new(least / 4, least, most.max(least * 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn the_first_pings_count_and_no_others() {
        let mut calibration = Calibration::default();
        for n in 0..20u64 {
            if calibration.wants_ping() {
                calibration.pinged(at_ms(n * 100));
                assert!(!calibration.wants_ping(), "one at a time");
                calibration.ponged(at_ms(n * 100 + 4));
            }
            // An answer to no ping of this kind: a watchdog's.
            calibration.ponged(at_ms(n * 100 + 50));
        }
        assert_eq!(calibration.round_trip().likely(), Duration::from_millis(4));
        assert_eq!(calibration.trips.len(), PINGS);
    }

    #[test]
    fn quicker_pings_take_the_place_of_slow_ones() {
        let mut calibration = Calibration::default();
        let mut ping = |n: u64, ms: u64| {
            calibration.pinged(at_ms(n * 100));
            assert!(calibration.awaits_pong());
            calibration.ponged(at_ms(n * 100 + ms));
            calibration.round_trip()
        };
        for n in 0..5 {
            ping(n, 30);
        }
        assert!(ping(5, 40).high() > Duration::from_millis(30), "no news");
        for n in 6..11 {
            ping(n, 1);
        }
        assert!(ping(11, 30).high() < Duration::from_millis(2));
    }

    #[test]
    fn parts_add_up_and_the_state_waits_behind_digests() {
        let mut calibration = Calibration::default();
        calibration.harvested(Duration::from_millis(3));
        calibration.harvested(Duration::from_millis(1));
        let costs = calibration.costs(false);
        assert_eq!(costs.harvest.likely(), Duration::from_millis(1));
        assert_eq!(costs.harvest.high(), Duration::from_millis(3));
        let parts = [
            costs.stop,
            costs.harvest,
            costs.ack_latency,
            costs.state,
            costs.hand_over,
        ];
        let likely: Duration = parts.iter().map(|part| part.likely()).sum();
        assert_eq!(costs.total().likely(), likely);
        assert!(costs.total().high() < parts.iter().map(|part| part.high()).sum());
        let verified = calibration.costs(true);
        assert!(verified.state.high() > costs.state.high());
        let lump = FixedCosts::lump(costs.total());
        assert_eq!(lump.total(), costs.total());
    }
}
