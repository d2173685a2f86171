//! How a share becomes stops and runs: plain arithmetic, in nanoseconds.

/// Longest single stop. Who waits for a lock that the stopped thread holds waits no longer, and
/// QEMU stops its vCPUs (for the hand-over, say) within this time.
pub(super) const STOP_NS_MAX: u64 = 10_000_000;

/// Shortest run, where [`STOP_NS_MAX`] leaves it: a vCPU's way back into its guest and the tick
/// that waits there take tens of microseconds, and below that a guest only goes to and fro.
const RUN_NS_MIN: u64 = 100_000;

/// How long a busy thread is stopped, and how long it runs, in turn.
#[derive(Clone, Copy)]
pub(super) struct Rhythm {
    pub(super) stopped_permille: u32,
    pub(super) stop_ns: u64,
    pub(super) run_ns: u64,
}

impl Rhythm {
    /// `stopped_permille` is 1 to 990.
    pub(super) fn new(stopped_permille: u16, period_us: u32) -> Self {
        let stopped_permille = u32::from(stopped_permille);
        let (stopped, running) = (
            u64::from(stopped_permille),
            u64::from(1000 - stopped_permille),
        );
        // 1 us is 1000 ns: a permille of a microsecond is a nanosecond.
        let run_ns = (u64::from(period_us) * running).max(RUN_NS_MIN);
        let stop_ns = (run_ns * stopped / running).min(STOP_NS_MAX);
        Self {
            stopped_permille,
            stop_ns,
            run_ns: stop_ns * running / stopped,
        }
    }

    /// What a thread owes for having run so long, in nanoseconds.
    pub(super) fn debt_of(self, run_ns: u64) -> i64 {
        let ns = run_ns.saturating_mul(self.stop_ns) / self.run_ns.max(1);
        i64::try_from(ns).unwrap_or(i64::MAX)
    }

    /// How long a thread may run until it owes a whole stop, in nanoseconds.
    pub(super) fn run_until_stop(self, debt_ns: i64) -> u64 {
        let missing_ns = self.stop_ns.cast_signed().saturating_sub(debt_ns).max(0);
        missing_ns.cast_unsigned() * self.run_ns / self.stop_ns.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_the_share_of_the_period_until_they_are_as_long_as_may_be() {
        let table = [
            (1, 1_000, 1_000, 999_000),
            (500, 5_000, 2_500_000, 2_500_000),
            (990, 10_000, 9_900_000, 100_000),
            (900, 20_000, STOP_NS_MAX, 1_111_111),
            (990, 50_000, STOP_NS_MAX, 101_010),
            // Runs that would be too short make for a longer period.
            (900, 1_000, 900_000, 100_000),
            (950, 1_000, 1_900_000, 100_000),
            (990, 1_000, 9_900_000, 100_000),
        ];
        for (permille, period_us, stop_ns, run_ns) in table {
            let rhythm = Rhythm::new(permille, period_us);
            assert_eq!((rhythm.stop_ns, rhythm.run_ns), (stop_ns, run_ns));
        }
    }

    #[test]
    fn debts_and_runs_agree() {
        for permille in [1, 100, 500, 900, 990] {
            for period_us in [1_000, 5_000, 50_000] {
                let rhythm = Rhythm::new(permille, period_us);
                let debt_ns = rhythm.debt_of(rhythm.run_ns);
                assert_eq!(debt_ns, rhythm.stop_ns.cast_signed());
                assert_eq!(rhythm.run_until_stop(debt_ns), 0);
                assert_eq!(rhythm.run_until_stop(0), rhythm.run_ns);
                assert_eq!(rhythm.run_until_stop(-debt_ns), 2 * rhythm.run_ns);
                assert_eq!(rhythm.run_until_stop(i64::MAX), 0);
                assert_eq!(rhythm.debt_of(0), 0);
                assert!(rhythm.debt_of(u64::MAX) > 0, "no overflow");
            }
        }
    }
}
