//! What each vCPU takes of a processor, and what it would take if it were let.

use crate::converge::{ThrottleResponse, ThrottleShare};

/// Part of a processor below which a vCPU is idle.
const IDLE: f64 = 0.03;

/// Weight of a look at a vCPU that runs freely, beside those before it, and at one that takes less
/// than it may.
const FREE_WEIGHT: f64 = 0.5;
const HELD_WEIGHT: f64 = 0.1;

/// Parts of a processor, 0 to 1, by vCPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand {
    each: Vec<f64>,
    /// Whether they were ever seen to run freely.
    is_known: bool,
}

impl Demand {
    /// Nothing known: all want all that there is.
    pub(super) fn unknown(vcpus: usize) -> Self {
        Self {
            each: vec![1.0; vcpus],
            is_known: false,
        }
    }

    /// How many vCPUs there are.
    pub(super) fn vcpus(&self) -> usize {
        self.each.len()
    }

    /// In `seconds` the vCPUs ran for their parts of `ran`, throttled by what `share` says.
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
                // It does not take what it may; or the host is too busy to give it even that.
                *demand += (took - *demand) * HELD_WEIGHT;
            }
            *demand = demand.max(took);
        }
    }

    /// The part that each wants. What idle ones do is no throttle's business: nothing.
    pub(super) fn each(&self) -> impl Iterator<Item = f64> {
        (self.each.iter()).map(|&demand| if demand > IDLE { demand } else { 0.0 })
    }

    /// What one share for all does to the work of vCPUs with such costs; without costs, all alike.
    ///
    /// They write the sum of `cost * min(demand, 1 - share)`, which bends at each demand. The one
    /// demand that is given writes as much as they do under a throttle that leaves the vCPU which
    /// writes most a quarter of what it wants: about so strong are the shares that policies weigh.
    pub(super) fn response(&self, costs: impl Iterator<Item = f64>) -> ThrottleResponse {
        let costs: Vec<f64> = costs.collect();
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

    /// Those that are not idle.
    pub(super) fn busy(&self) -> Vec<usize> {
        let busy = self.each().enumerate().filter(|(_, demand)| *demand > 0.0);
        busy.map(|(vcpu, _)| vcpu).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_demand_stands_for_all() {
        let mut demand = Demand::unknown(3);
        let all = demand.response(std::iter::empty());
        assert_eq!(all, ThrottleResponse::default(), "before any look");
        demand.saw(1.0, &[0.2, 0.2, 0.001], |_| ThrottleShare::NONE);
        let alike = demand.response(std::iter::empty());
        assert!((alike.demand() - 0.2).abs() < 1e-9, "{alike:?}");
        // Who does not write does not count, however much it computes.
        demand.saw(1.0, &[0.2, 0.9, 0.001], |_| ThrottleShare::NONE);
        let writer = demand.response([1000.0, 1.0, 0.0].into_iter());
        assert!((writer.demand() - 0.2).abs() < 0.01, "{writer:?}");
        // Both write: half of it is left at a share of about three quarters.
        let both = demand.response(std::iter::empty());
        assert!((0.4..0.6).contains(&both.demand()), "{both:?}");
    }

    #[test]
    fn what_is_held_back_is_still_wanted() {
        let mut demand = Demand::unknown(3);
        for _ in 0..10 {
            demand.saw(0.1, &[0.1, 0.03, 0.0005], |_| ThrottleShare::NONE);
        }
        assert_eq!(demand.busy(), [0, 1]);
        let strong = ThrottleShare::permille(900);
        for _ in 0..10 {
            // The second one gets less than it wants, the third wakes up.
            demand.saw(0.1, &[0.01, 0.009, 0.01], |_| strong);
        }
        let each: Vec<f64> = demand.each().collect();
        assert!((each[0] - 1.0).abs() < 1e-9 && (each[1] - 0.3).abs() < 0.01);
        assert_eq!(demand.busy(), [0, 1, 2]);
    }
}
