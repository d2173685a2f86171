//! What each vCPU takes of a processor, and what it would take if it were let.

use crate::converge::Share;

/// Part of a processor below which a vCPU is idle.
const IDLE: f64 = 0.03;

/// Weight of a look at a vCPU that runs freely, and at one that takes less than it may.
const FREE_WEIGHT: f64 = 0.5;
const HELD_WEIGHT: f64 = 0.1;

/// Parts of a processor, 0 to 1, by vCPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand(Vec<f64>);

impl Demand {
    /// Nothing known: all want all that there is.
    pub(super) fn unknown(vcpus: usize) -> Self {
        Self(vec![1.0; vcpus])
    }

    /// How many vCPUs there are.
    pub(super) fn vcpus(&self) -> usize {
        self.0.len()
    }

    /// In `seconds` the vCPUs ran for their parts of `ran`, throttled by what `share` says.
    pub(super) fn saw(&mut self, seconds: f64, ran: &[f64], share: impl Fn(usize) -> Share) {
        for (vcpu, (demand, ran)) in self.0.iter_mut().zip(ran).enumerate() {
            let took = (ran / seconds).min(1.0);
            let may = 1.0 - share(vcpu).as_fraction();
            if share(vcpu) == Share::NONE {
                *demand += (took - *demand) * FREE_WEIGHT;
            } else if took < may / 2.0 {
                // It does not take what it may; or the host is too busy to give it even that.
                *demand += (took - *demand) * HELD_WEIGHT;
            }
            *demand = demand.max(took);
        }
    }

    /// The part that each wants. What idle ones do is no throttle's business: nothing.
    pub(super) fn each(&self) -> impl Iterator<Item = f64> {
        (self.0.iter()).map(|&demand| if demand > IDLE { demand } else { 0.0 })
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
    fn what_is_held_back_is_still_wanted() {
        let mut demand = Demand::unknown(3);
        for _ in 0..10 {
            demand.saw(0.1, &[0.1, 0.03, 0.0005], |_| Share::NONE);
        }
        assert_eq!(demand.busy(), [0, 1]);
        let strong = Share::permille(900);
        for _ in 0..10 {
            // The second one gets less than it wants, the third wakes up.
            demand.saw(0.1, &[0.01, 0.009, 0.01], |_| strong);
        }
        let each: Vec<f64> = demand.each().collect();
        assert!((each[0] - 1.0).abs() < 1e-9 && (each[1] - 0.3).abs() < 0.01);
        assert_eq!(demand.busy(), [0, 1, 2]);
    }
}
