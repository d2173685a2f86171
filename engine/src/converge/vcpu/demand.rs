//! The demand of each vCPU: the part of a processor that it takes without a throttle.

use crate::converge::{ThrottleResponse, ThrottleShare};

/// Part of a processor below which a vCPU counts as idle: its housekeeping.
const IDLE: f64 = 0.03;

/// Weight of a sample of a vCPU without a throttle, and of one that takes less than its throttle
/// leaves. The latter says less: the host may be too busy to give it even that.
const FREE_WEIGHT: f64 = 0.5;
const THROTTLED_WEIGHT: f64 = 0.1;

/// Parts of a processor, 0 to 1, by vCPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand {
    each: Vec<f64>,
    /// Whether there was a sample without a throttle.
    is_known: bool,
}

impl Demand {
    /// Before the first sample: each wants a whole processor.
    pub(super) fn unknown(vcpus: usize) -> Self {
        Self {
            each: vec![1.0; vcpus],
            is_known: false,
        }
    }

    /// In `seconds` each vCPU ran for its part of `ran`, in seconds, throttled as `share` says.
    pub(super) fn saw(
        &mut self,
        seconds: f64,
        ran: &[f64],
        share: impl Fn(usize) -> ThrottleShare,
    ) {
        let weight = if self.is_known { FREE_WEIGHT } else { 1.0 };
        for (vcpu, (demand, ran)) in self.each.iter_mut().zip(ran).enumerate() {
            let took = (ran / seconds).min(1.0);
            let may = 1.0 - share(vcpu).as_fraction();
            if share(vcpu) == ThrottleShare::NONE {
                self.is_known = true;
                *demand += (took - *demand) * weight;
            } else if took < may / 2.0 {
                *demand += (took - *demand) * THROTTLED_WEIGHT;
            }
            *demand = demand.max(took);
        }
    }

    /// The demand of each; 0 for those that are idle.
    pub(super) fn each(&self) -> impl Iterator<Item = f64> {
        (self.each.iter()).map(|&demand| if demand > IDLE { demand } else { 0.0 })
    }

    /// How the work of vCPUs with such `costs` depends on one share for all; without costs all of
    /// them count alike.
    ///
    /// They write the sum of `cost * min(demand, 1 - share)`, which bends at each demand. One demand
    /// stands for all: the one that writes as much under a throttle that leaves the vCPU which
    /// writes most a quarter of its demand, about as strong as the throttles that policies compare.
    pub(super) fn response(&self, costs: &[f64]) -> ThrottleResponse {
        let known = costs.len() == self.each.len() && costs.iter().any(|cost| *cost > 0.0);
        let cost = |vcpu: usize| if known { costs[vcpu] } else { 1.0 };
        let writes = self
            .each()
            .enumerate()
            .map(|(vcpu, demand)| (cost(vcpu) * demand, demand));
        let most = writes.max_by(|a, b| a.0.total_cmp(&b.0));
        let level = most.map_or(0.0, |(_, demand)| demand / 4.0);
        let (mut free, mut left) = (0.0, 0.0);
        for (vcpu, demand) in self.each().enumerate() {
            free += cost(vcpu) * demand;
            left += cost(vcpu) * demand.min(level);
        }
        if left > 0.0 {
            ThrottleResponse::of_demand(level * free / left)
        } else {
            ThrottleResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_demand_stands_for_all() {
        let mut demand = Demand::unknown(3);
        let all = demand.response(&[]);
        assert_eq!(all, ThrottleResponse::default(), "before any sample");
        demand.saw(1.0, &[0.2, 0.2, 0.001], |_| ThrottleShare::NONE);
        let alike = demand.response(&[]);
        assert!((alike.demand() - 0.2).abs() < 1e-9, "{alike:?}");
        // One that does not write does not count, however much it computes.
        demand.saw(1.0, &[0.2, 0.9, 0.001], |_| ThrottleShare::NONE);
        let writer = demand.response(&[1000.0, 1.0, 0.0]);
        assert!((writer.demand() - 0.2).abs() < 0.01, "{writer:?}");
        // Both write: half of it is left at a share of about three quarters.
        let both = demand.response(&[]);
        assert!((0.4..0.6).contains(&both.demand()), "{both:?}");
    }

    #[test]
    fn what_is_held_back_is_still_wanted() {
        let mut demand = Demand::unknown(3);
        for _ in 0..10 {
            demand.saw(0.1, &[0.1, 0.03, 0.0005], |_| ThrottleShare::NONE);
        }
        assert_eq!(demand.each().last(), Some(0.0));
        let strong = ThrottleShare::permille(900);
        for _ in 0..10 {
            // The second one gets less than it wants, the third wakes up.
            demand.saw(0.1, &[0.01, 0.009, 0.01], |_| strong);
        }
        let each: Vec<f64> = demand.each().collect();
        assert!((each[0] - 1.0).abs() < 1e-9 && (each[1] - 0.3).abs() < 0.01);
        assert!(each[2] > 0.0);
    }
}
