//! Policies that stop the guest, or hold pages back, where no sensible one would.

use std::time::Duration;

use pagelift_engine::converge::{Decision, GiveUp, Limits, Observation, Policy, ThrottleShare};
use pagelift_engine::units::{ByteCount, PageCount, Rate};

/// Stops the guest at any time, for no reason.
#[derive(Debug)]
pub struct Whim {
    pub stop_at: u32,
    pub give_up: bool,
}

impl Policy for Whim {
    fn decide(&mut self, seen: &Observation) -> Decision {
        if self.stop_at > 0 {
            self.stop_at -= 1;
            return Decision::Continue;
        }
        if !self.give_up {
            return Decision::Stop;
        }
        Decision::GiveUp(GiveUp::TimedOut {
            limit_s: 0.0,
            left: ByteCount(0),
            dirty: seen.dirty.unwrap_or(Rate(0)),
            link: seen.link.unwrap_or(Rate(0)),
        })
    }

    fn downtime_limit(&self) -> Duration {
        Duration::ZERO
    }
}

/// Lets so many pages wait for the downtime, and leaves the rest to another policy.
#[derive(Debug)]
pub struct HoldsBack {
    pub inner: Box<dyn Policy>,
    pub most: PageCount,
}

impl Policy for HoldsBack {
    fn decide(&mut self, seen: &Observation) -> Decision {
        self.inner.decide(seen)
    }

    fn hold_back(&self, _seen: &Observation) -> PageCount {
        self.most
    }

    fn downtime_limit(&self) -> Duration {
        self.inner.downtime_limit()
    }

    fn throttle_most(&self) -> ThrottleShare {
        self.inner.throttle_most()
    }

    fn set_limits(&mut self, limits: &Limits) {
        self.inner.set_limits(limits);
    }
}
