//! What a downtime costs beside its pages, and where each figure comes from.
//!
//! | cost | measured by |
//! |---|---|
//! | stop, state, hand-over of the guest | whoever runs it ([`SwitchoverCosts`]), without stopping it |
//! | harvest | the harvests of the rounds |
//! | messages | pings over the control connection, from the handshake on |
//! | waiting for a processor | [`SchedulingDelay`] |
//!
//! Pings that share the link with pages, or come while the sides set themselves up, measure more
//! than the path, which is free when the messages of the hand-over go: of the first few, the
//! quickest are believed. If those were slow, the pings between rounds take their place
//! (docs/decisions/032).

use std::time::Duration;

use super::{Interval, SchedulingDelay};
use crate::units::Instant;

/// What stopping and starting a guest costs, on both sides, beside messages between them.
///
/// The default is for a guest of which nothing is known: a process whose threads are parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchoverCosts {
    /// From the guest's standstill until it is known here.
    pub stop: Interval,
    /// How long the guest runs on, and writes, once it is asked to stop.
    pub stop_latency: Interval,
    /// Saving its state here, and loading it there.
    pub state: Interval,
    /// Giving it up here, and starting it there.
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

/// All that a downtime costs beside its pages, in its order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FixedCosts {
    /// From the guest's standstill until it is known here.
    pub stop: Interval,
    /// Harvesting the last dirty pages.
    pub harvest: Interval,
    /// The news that the last page is placed.
    pub ack_latency: Interval,
    /// Saving, sending and loading device state.
    pub state: Interval,
    /// Giving up here and starting there.
    pub hand_over: Interval,
    /// How long the guest runs on once it is asked to stop; no part of the downtime.
    pub stop_latency: Interval,
}

impl FixedCosts {
    /// Costs of which only the sum is known; it counts as the device state's.
    pub fn lump(sum: Interval) -> Self {
        Self {
            state: sum,
            ..Self::default()
        }
    }

    /// A downtime with no page to send.
    pub fn total(&self) -> Interval {
        [self.harvest, self.ack_latency, self.state, self.hand_over]
            .into_iter()
            .fold(self.stop, Interval::then)
    }
}

/// Threads that wake each other in turn in each part, both sides together; counted along the
/// code of `pipeline`.
mod wakes {
    /// The guest's own threads, and the coordinator.
    pub(super) const STOP: f64 = 2.0;
    /// A data channel here and there, the control reader, the coordinator.
    pub(super) const ACK_LATENCY: f64 = 3.0;
    /// Reader and coordinator there, what loads the state and its threads, reader and coordinator
    /// here.
    pub(super) const STATE: f64 = 8.0;
    /// Reader and coordinator there, reader and coordinator here.
    pub(super) const HAND_OVER: f64 = 4.0;
}

/// Pings whose answers count.
const PINGS: usize = 5;

/// Round trip while none was measured.
const UNKNOWN_TRIP: [Duration; 3] = [
    Duration::from_micros(50),
    Duration::from_micros(500),
    Duration::from_millis(5),
];

/// What the state loses behind digests of all memory: the threads that computed them have used up
/// their share of the processors, and wait for a few ticks of the scheduler.
const BEHIND_DIGESTS: Interval = Interval::in_order([
    Duration::ZERO,
    Duration::from_micros(500),
    Duration::from_millis(12),
]);

/// Harvests that are kept.
const HARVESTS: usize = 8;

/// What was measured of the switchover before it happens.
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
    /// What the guest's own steps cost.
    pub fn switchover(&mut self, costs: SwitchoverCosts) {
        self.switchover = costs;
    }

    /// Whether another ping would tell more while pages are under way.
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

    /// The answer to a ping came in: one of the first few, or quicker than the slowest of those.
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

    /// A harvest took so long.
    pub fn harvested(&mut self, took: Duration) {
        if self.harvests.len() == HARVESTS {
            self.harvests.remove(0);
        }
        self.harvests.push(took);
    }

    /// A message there and its answer.
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

    /// What a downtime costs beside its pages; `verify`: digests of all memory are compared.
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

    /// The last harvest finds few pages, as the quickest of the rounds do.
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
            // One that nobody asked for, or a watchdog did.
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
