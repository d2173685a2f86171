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

/// Whose share is how large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shares {
    /// The same for all vCPUs: who writes is not known.
    All(Permille),
    /// One for each vCPU, in the order of their index.
    PerVcpu(Vec<Permille>),
}

/// What is to be slowed down, how much, and in what rhythm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThrottlePlan {
    shares: Shares,
    period: Duration,
}

impl ThrottlePlan {
    /// Slows vCPUs by `shares`, each stopped about once in `period`. Short periods keep
    /// latencies low, long ones cost less; the period is brought into 0.5 to 50 ms, and an
    /// actuator that cannot have it takes the nearest that it can.
    pub fn new(shares: Shares, period: Duration) -> Self {
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
    pub fn suited(shares: Shares) -> Self {
        let period = |share: &Permille| {
            let less = share.get().min(1000 - share.get());
            let suited = PART_MIN * 1000 / u32::from(less.max(1));
            if *share == Permille::ZERO {
                PART_MIN
            } else {
                suited.min(SUITED_MAX)
            }
        };
        let longest = match &shares {
            Shares::All(share) => period(share),
            Shares::PerVcpu(each) => each.iter().map(period).max().unwrap_or(PART_MIN),
        };
        Self::new(shares, longest)
    }

    /// Whose share is how large.
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// One stop and one run together: 0.5 to 50 ms.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// The largest share of all, as it goes into a report.
    pub fn max_share(&self) -> Permille {
        match &self.shares {
            Shares::All(share) => *share,
            Shares::PerVcpu(shares) => shares.iter().copied().max().unwrap_or_default(),
        }
    }

    /// The share of each of `vcpus` vCPUs.
    ///
    /// # Errors
    /// When the plan is for another number of them.
    pub fn shares_of(&self, vcpus: usize) -> Result<Vec<Permille>, ThrottleError> {
        match &self.shares {
            Shares::All(share) => Ok(vec![*share; vcpus]),
            Shares::PerVcpu(shares) if shares.len() == vcpus => Ok(shares.clone()),
            Shares::PerVcpu(shares) => Err(ThrottleError::VcpuCount {
                plan: shares.len(),
                guest: vcpus,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_as_short_as_pays() {
        let share = |permille| Permille::new(permille).unwrap();
        let period = |permille| ThrottlePlan::suited(Shares::All(share(permille))).period();
        assert_eq!(period(500), Duration::from_micros(560));
        assert_eq!(period(100), period(900));
        assert_eq!(period(950), Duration::from_micros(5600));
        assert_eq!(period(990), Duration::from_millis(10));
        assert_eq!(period(1), Duration::from_millis(10));
        let each = Shares::PerVcpu(vec![share(500), share(900), Permille::ZERO]);
        assert_eq!(ThrottlePlan::suited(each).period(), period(900));
    }

    #[test]
    fn a_plan_is_for_a_number_of_vcpus_or_for_all() {
        let share = |permille| Permille::new(permille).unwrap();
        assert_eq!(Permille::new(991), None);
        assert_eq!(Permille::MAX.to_string(), "99.0 %");
        let second = Duration::from_secs(1);
        let all = ThrottlePlan::new(Shares::All(share(7)), second);
        assert_eq!(all.period(), Duration::from_millis(50));
        assert_eq!(all.shares_of(2).unwrap(), [share(7); 2]);
        assert_eq!(all.max_share(), share(7));
        let each = Shares::PerVcpu(vec![share(1), share(500), Permille::ZERO]);
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
