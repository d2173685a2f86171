//! What is to be slowed down, and how much.

use std::fmt;
use std::time::Duration;

use pagelift_agent_protocol::{MAX_STOPPED_PERMILLE, PERIOD_US};

use super::ThrottleError;

/// Shortest stop and shortest run that a period is made of. A stop and the way back cost a vCPU
/// about 30 us of its time (docs/decisions/030), a tenth of this.
const PART_MIN: Duration = Duration::from_micros(280);

/// Longest period that is chosen: a guest notices stops of ten milliseconds.
const SUITED_MAX: Duration = Duration::from_millis(10);

/// A share of the time in which a vCPU is kept from running: 0 to 990 thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permille(u16);

impl Permille {
    /// Runs all the time.
    pub const ZERO: Self = Self(0);
    /// Runs for a hundredth of the time: the guest still answers, and barely so.
    pub const MAX: Self = Self(MAX_STOPPED_PERMILLE);

    /// The share of `permille` thousandths; above [`MAX`](Self::MAX) there is none.
    pub const fn new(permille: u16) -> Option<Self> {
        if permille <= MAX_STOPPED_PERMILLE {
            Some(Self(permille))
        } else {
            None
        }
    }

    /// The number of thousandths.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Permille {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} %", self.0 / 10, self.0 % 10)
    }
}

/// How much each vCPU is slowed, and in what rhythm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThrottlePlan {
    /// One for each vCPU, in the order of their index.
    shares: Vec<Permille>,
    period: Duration,
}

impl ThrottlePlan {
    /// Slows vCPUs by `shares`, one for each in the order of their index, each stopped about once in `period`. Short periods keep
    /// latencies low, long ones cost less; the period is brought into 0.5 to 50 ms, and an
    /// actuator that cannot have it takes the nearest that it can.
    pub fn new(shares: Vec<Permille>, period: Duration) -> Self {
        let limit_us = |us: &u32| Duration::from_micros((*us).into());
        Self {
            shares,
            period: period.clamp(limit_us(PERIOD_US.start()), limit_us(PERIOD_US.end())),
        }
    }

    /// Slows vCPUs by `shares`, in the shortest period that costs little: the guest answers the
    /// sooner the shorter its stops are, but every stop costs it processor time, which must be
    /// small against what it is stopped for and against what it runs. So 0.56 ms for a share of
    /// a half, 2.8 ms for a tenth and nine tenths, 5.6 ms for 95 %. Of several shares the one
    /// that needs the longest period decides.
    pub fn suited(shares: Vec<Permille>) -> Self {
        let period = |share: &Permille| {
            let less = share.get().min(1000 - share.get());
            let suited = PART_MIN * 1000 / u32::from(less.max(1));
            if *share == Permille::ZERO {
                PART_MIN
            } else {
                suited.min(SUITED_MAX)
            }
        };
        let longest = shares.iter().map(period).max().unwrap_or(PART_MIN);
        Self::new(shares, longest)
    }

    /// One stop and one run together: 0.5 to 50 ms.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// The largest share of all, as it goes into a report.
    pub fn max_share(&self) -> Permille {
        self.shares.iter().copied().max().unwrap_or_default()
    }

    /// The share of each of `vcpus` vCPUs.
    ///
    /// # Errors
    /// When the plan is for another number of them.
    pub fn shares_of(&self, vcpus: usize) -> Result<&[Permille], ThrottleError> {
        if self.shares.len() == vcpus {
            Ok(&self.shares)
        } else {
            Err(ThrottleError::VcpuCount {
                plan: self.shares.len(),
                guest: vcpus,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_as_short_as_pays() {
        let share = |permille| Permille::new(permille).unwrap();
        let period = |permille| ThrottlePlan::suited(vec![share(permille)]).period();
        assert_eq!(period(500), Duration::from_micros(560));
        assert_eq!(period(100), period(900));
        assert_eq!(period(950), Duration::from_micros(5600));
        assert_eq!(period(990), Duration::from_millis(10));
        assert_eq!(period(1), Duration::from_millis(10));
        let each = vec![share(500), share(900), Permille::ZERO];
        assert_eq!(ThrottlePlan::suited(each).period(), period(900));
    }

    #[test]
    fn a_plan_is_for_a_number_of_vcpus() {
        let share = |permille| Permille::new(permille).unwrap();
        assert_eq!(Permille::new(991), None);
        assert_eq!(Permille::MAX.to_string(), "99.0 %");
        let second = Duration::from_secs(1);
        let all = ThrottlePlan::new(vec![share(7); 2], second);
        assert_eq!(all.period(), Duration::from_millis(50));
        assert_eq!(all.shares_of(2).unwrap(), [share(7); 2]);
        assert_eq!(all.max_share(), share(7));
        let each = vec![share(1), share(500), Permille::ZERO];
        let each = ThrottlePlan::new(each, Duration::ZERO);
        assert_eq!(each.period(), Duration::from_micros(500));
        assert_eq!(each.shares_of(3).unwrap()[1], share(500));
        assert_eq!(each.max_share(), share(500));
        let error = each.shares_of(2).unwrap_err();
        assert!(matches!(
            error,
            ThrottleError::VcpuCount { plan: 3, guest: 2 }
        ));
    }
}
