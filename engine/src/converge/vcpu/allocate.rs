//! Allocates a throttle to vCPUs: the share of each that together have the effect which the policy
//! wants of one share for all, with the least work lost.
//!
//! A vCPU that is throttled by `s` gets `1 - s` of a processor at most; one that wants less is not
//! slowed. Work lost is processor time that vCPUs want and do not get. So the vCPU that writes most
//! per second of its time pays first, down to the strongest throttle allowed, then the next one:
//! the greedy solution of the continuous knapsack problem (Dantzig 1957). vCPUs whose costs are
//! within a factor of [`ALIKE`] share alike.
//!
//! A little more may be written than was wanted ([`SLACK`]) if that spares a vCPU: under a strong
//! throttle the last per cent of all writes would otherwise throttle all of them.

use crate::converge::ThrottleShare;

/// Costs within this factor count as alike.
const ALIKE: f64 = 1.5;

/// What may be written beyond what is wanted, as a part of that or of what the throttle takes away,
/// whichever is less; or as this much smaller part of what it takes away, if that is more.
const SLACK: f64 = 0.15;
const SLACK_OF_TAKEN: f64 = 0.015;

/// Least part of the lost work that shares which differ must save.
const WORTH: f64 = 0.1;

/// A vCPU, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Vcpu {
    /// Pages per second of its processor time.
    pub(super) cost: f64,
    /// The part of a processor that it would take unthrottled, 0 to 1.
    pub(super) demand: f64,
}

impl Vcpu {
    /// Part of a processor that it gets under `share`.
    pub(super) fn runs(&self, share: ThrottleShare) -> f64 {
        self.demand.min(1.0 - share.as_fraction())
    }
}

/// Pages per second that may be written beyond what a throttle of `wanted` for all leaves.
fn slack(wanted: ThrottleShare, vcpus: &[Vcpu]) -> f64 {
    let (free, left) = (
        written(vcpus, |_| ThrottleShare::NONE),
        written(vcpus, |_| wanted),
    );
    let taken = free - left;
    (SLACK * left.min(taken)).max(SLACK_OF_TAKEN * taken)
}

/// Pages per second that are written when each vCPU, by index, has its share.
fn written(vcpus: &[Vcpu], share: impl Fn(usize) -> ThrottleShare) -> f64 {
    let of = |(index, vcpu): (usize, &Vcpu)| vcpu.cost * vcpu.runs(share(index));
    vcpus.iter().enumerate().map(of).sum()
}

/// The share for all under which the vCPUs would write what they write when each gets its part
/// of a processor of `runs`.
pub(super) fn equal_share(vcpus: &[Vcpu], runs: &[f64]) -> ThrottleShare {
    let target: f64 = (vcpus.iter().zip(runs))
        .map(|(vcpu, runs)| vcpu.cost * runs.min(vcpu.demand))
        .sum();
    let (mut low, mut high) = (0, ThrottleShare::MOST.as_permille());
    while low < high {
        let middle = (low + high) / 2;
        if written(vcpus, |_| ThrottleShare::permille(middle)) <= target * (1.0 + 1e-9) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    ThrottleShare::permille(high)
}

/// Processors that are wanted and not given when each vCPU, by index, has its share.
fn lost_work(vcpus: &[Vcpu], share: impl Fn(usize) -> ThrottleShare) -> f64 {
    let of = |(index, vcpu): (usize, &Vcpu)| vcpu.demand - vcpu.runs(share(index));
    vcpus.iter().enumerate().map(of).sum()
}

/// The share of each of `vcpus`, none above `most`, in place of `wanted` for all. `None`: shares
/// that differ would save next to nothing.
pub(super) fn allocate(
    wanted: ThrottleShare,
    most: ThrottleShare,
    vcpus: &[Vcpu],
) -> Option<Vec<ThrottleShare>> {
    let free = written(vcpus, |_| ThrottleShare::NONE);
    let mut missing = free - written(vcpus, |_| wanted);
    if missing <= 0.0 {
        return None;
    }
    let mut slack = slack(wanted, vcpus);
    let least = 1.0 - most.as_fraction();
    let mut order: Vec<usize> = (0..vcpus.len()).collect();
    order.sort_by(|&a, &b| vcpus[b].cost.total_cmp(&vcpus[a].cost));
    let mut runs: Vec<f64> = vcpus.iter().map(|vcpu| vcpu.demand).collect();
    let mut rest = &order[..];
    while let Some(&first) = rest.first() {
        let head = vcpus[first].cost;
        let alike = rest.partition_point(|&vcpu| vcpus[vcpu].cost * ALIKE >= head);
        let (group, others) = rest.split_at(alike.max(1));
        rest = others;
        let taken = |level: f64| -> f64 {
            let of = |&vcpu: &usize| vcpus[vcpu].cost * (vcpus[vcpu].demand - level).max(0.0);
            group.iter().map(of).sum()
        };
        let level = if taken(least) <= missing {
            least
        } else {
            level_of(missing, &taken, least)
        };
        for &vcpu in group {
            runs[vcpu] = runs[vcpu].min(level);
        }
        let paid = taken(level);
        missing -= paid;
        // The slack is used once a vCPU has paid: it is there to spare the others.
        if paid > 0.0 {
            missing -= std::mem::take(&mut slack);
        }
        if missing <= free * 1e-9 {
            break;
        }
    }
    let shares: Vec<ThrottleShare> = (vcpus.iter().zip(&runs))
        .map(|(vcpu, &runs)| {
            if runs < vcpu.demand {
                // Rounded up, but not for a rounding error.
                ThrottleShare::fraction(1.0 - runs - 1e-9).min(most)
            } else {
                ThrottleShare::NONE
            }
        })
        .collect();
    let spares =
        lost_work(vcpus, |vcpu| shares[vcpu]) <= lost_work(vcpus, |_| wanted) * (1.0 - WORTH);
    spares.then_some(shares)
}

/// The level at which `taken`, which falls with it, is `missing`: between `least` and 1.
fn level_of(missing: f64, taken: &dyn Fn(f64) -> f64, least: f64) -> f64 {
    let (mut low, mut high) = (least, 1.0);
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if taken(middle) >= missing {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: ThrottleShare = ThrottleShare::MOST;

    fn busy(cost: f64) -> Vcpu {
        Vcpu { cost, demand: 1.0 }
    }

    #[test]
    fn the_writer_pays_and_the_computer_does_not() {
        let (most, wanted) = (ThrottleShare::permille(950), ThrottleShare::permille(950));
        let shares = allocate(wanted, most, &[busy(10_000.0), busy(10.0)]).unwrap();
        assert_eq!(shares, [most, ThrottleShare::NONE]);
        let shares = allocate(
            ThrottleShare::permille(300),
            most,
            &[busy(0.0), busy(5000.0)],
        )
        .unwrap();
        assert_eq!(shares, [ThrottleShare::NONE, ThrottleShare::permille(300)]);
    }

    #[test]
    fn the_next_one_pays_when_the_first_cannot_pay_all() {
        let (most, wanted) = (ThrottleShare::permille(900), ThrottleShare::permille(800));
        let vcpus = [busy(1000.0), busy(4000.0), busy(1100.0)];
        let shares = allocate(wanted, most, &vcpus).unwrap();
        assert_eq!(shares[1], most);
        // These two are alike, and share what is left.
        assert_eq!(shares[0], shares[2]);
        assert!(
            shares[0] > ThrottleShare::NONE && shares[0] < wanted,
            "{shares:?}"
        );
    }

    #[test]
    fn equal_ones_are_left_to_one_share_for_all() {
        assert_eq!(
            allocate(ThrottleShare::permille(500), MOST, &[busy(100.0); 4]),
            None
        );
        assert_eq!(
            allocate(ThrottleShare::permille(500), MOST, &[busy(0.0); 4]),
            None
        );
        let idle = Vcpu {
            demand: 0.0,
            ..busy(100.0)
        };
        assert_eq!(
            allocate(ThrottleShare::permille(500), MOST, &[idle; 2]),
            None
        );
        assert_eq!(allocate(ThrottleShare::permille(500), MOST, &[]), None);
    }

    #[test]
    fn unequal_shares_have_an_equal_that_does_the_same() {
        let vcpus = [busy(1000.0), busy(3000.0)];
        assert_eq!(equal_share(&vcpus, &[1.0, 1.0]), ThrottleShare::NONE);
        assert_eq!(
            equal_share(&vcpus, &[0.3, 0.3]),
            ThrottleShare::permille(700)
        );
        assert_eq!(
            equal_share(&vcpus, &[1.0, 0.0]),
            ThrottleShare::permille(750)
        );
        assert_eq!(equal_share(&vcpus, &[0.0, 0.0]), ThrottleShare::MOST);
    }

    fn vcpus() -> impl Strategy<Value = Vec<Vcpu>> {
        let vcpu =
            (0.0..10_000.0f64, 0.0..=1.0f64).prop_map(|(cost, demand)| Vcpu { cost, demand });
        prop::collection::vec(vcpu, 1..12)
    }

    proptest! {
        /// No share is above the most, what is written is what was wanted, the slack included,
        /// and the harm is less than that of one share for all.
        #[test]
        fn the_effect_is_as_wanted_and_the_harm_is_less(
            vcpus in vcpus(),
            wanted in 1u16..990,
            above in 0u16..300,
        ) {
            let (wanted, most) = (ThrottleShare::permille(wanted), ThrottleShare::permille(wanted + above));
            let Some(shares) = allocate(wanted, most, &vcpus) else {
                return Ok(());
            };
            prop_assert!(shares.iter().all(|share| *share <= most));
            // A permille of a share is the grain.
            let grain = vcpus.iter().map(|vcpu| vcpu.cost).sum::<f64>() / 1000.0;
            let bound = written(&vcpus, |_| wanted) + slack(wanted, &vcpus) + grain;
            let ours = written(&vcpus, |i| shares[i]);
            prop_assert!(ours <= bound, "{ours} above {bound}");
            prop_assert!(lost_work(&vcpus, |i| shares[i]) < lost_work(&vcpus, |_| wanted));
        }
    }
}
