//! The policy `classic`: auto-converge with the names, defaults and behaviour of QEMU's.
//!
//! At a harvest at least one second after the last measurement: if the guest has written more than
//! `throttle_trigger_threshold` per cent of what was sent meanwhile, for the second time, it is
//! throttled by `cpu_throttle_initial`, and each further time by `cpu_throttle_increment` more, up
//! to `max_cpu_throttle`. With `cpu_throttle_tailslow` the increment shrinks to what would have
//! made the guest write no more than the threshold. The throttle never decays. The guest is stopped
//! when what is left fits the downtime at the link's rate; the parts of the downtime beside the
//! pages are not counted.
//!
//! Names and defaults: QEMU's QMP reference, `MigrationParameters`.

use std::time::Duration;

use super::limits::DEFAULT_DEADLINE;
use super::{Decision, DowntimeForecast, GiveUp, Observation, Policy, ThrottleShare};
use crate::units::{ByteCount, Instant};

/// Least time between two measurements, as in QEMU's `migration/ram.c`.
const PERIOD: Duration = Duration::from_secs(1);

/// The parameters of auto-converge, in per cent.
#[derive(Clone, Copy, Debug)]
pub struct ClassicConfig {
    /// Longest downtime allowed (QEMU's `downtime-limit`).
    pub downtime: Duration,
    /// Longest time for the whole migration; QEMU has none.
    pub timeout: Duration,
    /// `throttle-trigger-threshold`, 1 to 100.
    pub throttle_trigger_threshold: u8,
    /// `cpu-throttle-initial`, 1 to 99.
    pub cpu_throttle_initial: u8,
    /// `cpu-throttle-increment`, 1 to 99.
    pub cpu_throttle_increment: u8,
    /// `max-cpu-throttle`, up to 99.
    pub max_cpu_throttle: u8,
    /// `cpu-throttle-tailslow`.
    pub cpu_throttle_tailslow: bool,
}

impl Default for ClassicConfig {
    fn default() -> Self {
        Self {
            downtime: Duration::from_millis(300),
            timeout: DEFAULT_DEADLINE,
            throttle_trigger_threshold: 50,
            cpu_throttle_initial: 20,
            cpu_throttle_increment: 10,
            max_cpu_throttle: 99,
            cpu_throttle_tailslow: false,
        }
    }
}

/// Auto-converge.
#[derive(Clone, Copy, Debug)]
pub struct Classic {
    config: ClassicConfig,
    /// When it last measured, and the bytes placed by then.
    measured: Option<(Instant, ByteCount)>,
    /// Bytes written since then.
    dirtied: u64,
    high_periods: u32,
    /// Per cent.
    throttle: u8,
}

impl Classic {
    /// Auto-converge with these parameters.
    pub fn new(config: ClassicConfig) -> Self {
        Self {
            config,
            measured: None,
            dirtied: 0,
            high_periods: 0,
            throttle: 0,
        }
    }

    /// Auto-converge for a guest that is throttled by `throttle` already.
    pub(super) fn taking_over(config: ClassicConfig, throttle: ThrottleShare) -> Self {
        // At most 99.
        let throttle = throttle.as_permille().div_ceil(10).min(99) as u8;
        Self {
            throttle,
            ..Self::new(config)
        }
    }

    /// The parameters, to be changed.
    pub(super) fn config_mut(&mut self) -> &mut ClassicConfig {
        &mut self.config
    }

    /// At a harvest: the new throttle, if it changes.
    fn measure(&mut self, seen: &Observation) -> Option<ThrottleShare> {
        self.dirtied += seen.harvested.bytes().0;
        let Some((at, placed)) = self.measured else {
            self.measured = Some((seen.now, seen.placed));
            return None;
        };
        if seen.now.since(at) < PERIOD {
            return None;
        }
        let sent = seen.placed.0.saturating_sub(placed.0);
        let dirtied = std::mem::take(&mut self.dirtied);
        self.measured = Some((seen.now, seen.placed));
        let threshold = sent as f64 * f64::from(self.config.throttle_trigger_threshold) / 100.0;
        if dirtied as f64 <= threshold {
            return None;
        }
        self.high_periods += 1;
        if self.high_periods < 2 {
            return None;
        }
        self.high_periods = 0;
        let increment = match self.throttle {
            0 => self.config.cpu_throttle_initial,
            now if self.config.cpu_throttle_tailslow => {
                let running = 100.0 - f64::from(now);
                let enough = running - running * threshold / dirtied as f64;
                self.config
                    .cpu_throttle_increment
                    .min(enough.max(0.0) as u8)
            }
            _ => self.config.cpu_throttle_increment,
        };
        let new = self
            .throttle
            .saturating_add(increment)
            .min(self.config.max_cpu_throttle);
        let changed = new != self.throttle;
        self.throttle = new;
        changed.then(|| ThrottleShare::permille(u16::from(new) * 10))
    }
}

impl Policy for Classic {
    fn decide(&mut self, seen: &Observation) -> Decision {
        let sending = DowntimeForecast::of(seen).map(|parts| {
            parts
                .pages
                .likely()
                .saturating_sub(seen.fixed.ack_latency.likely())
        });
        if seen.round_ended && sending.is_some_and(|time| time <= self.config.downtime) {
            return Decision::Stop;
        }
        if seen.elapsed >= self.config.timeout {
            return Decision::GiveUp(GiveUp::timed_out(seen, self.config.timeout));
        }
        let throttle = if seen.round_ended {
            self.measure(seen)
        } else {
            None
        };
        throttle.map_or(Decision::Continue, Decision::Throttle)
    }

    fn downtime_limit(&self) -> Duration {
        self.config.downtime
    }

    fn throttle_most(&self) -> ThrottleShare {
        ThrottleShare::permille(u16::from(self.config.max_cpu_throttle) * 10)
    }
}

#[cfg(test)]
mod tests {
    use super::super::forecast::downtime::tests::seen;
    use super::*;
    use crate::units::PageCount;

    /// Rounds of one second in which 100 MB are sent and `dirtied` pages written.
    fn throttles(config: ClassicConfig, rounds: u32, dirtied: u64) -> Vec<u16> {
        let mut policy = Classic::new(config);
        (1..=rounds)
            .filter_map(|round| {
                let seen = Observation {
                    harvested: PageCount(dirtied),
                    placed: ByteCount(u64::from(round) * 100_000_000),
                    ..seen(u64::from(round) * 1000, round, 100_000)
                };
                match policy.decide(&seen) {
                    Decision::Throttle(share) => Some(share.as_permille()),
                    Decision::Continue => None,
                    other => panic!("{other:?}"),
                }
            })
            .collect()
    }

    #[test]
    fn every_second_high_period_throttles_more_up_to_the_most() {
        let config = ClassicConfig {
            max_cpu_throttle: 45,
            ..ClassicConfig::default()
        };
        assert_eq!(throttles(config, 12, 20_000), [200, 300, 400, 450]);
    }

    #[test]
    fn a_calm_guest_is_left_alone() {
        // 12,000 pages are 49 MB: below half of what was sent.
        assert_eq!(throttles(ClassicConfig::default(), 20, 12_000), []);
    }

    #[test]
    fn tailslow_takes_smaller_steps_near_the_threshold() {
        let config = ClassicConfig {
            cpu_throttle_tailslow: true,
            ..ClassicConfig::default()
        };
        // 51.2 MB against 50: of the 80 % that run, 1.9 % too many.
        assert_eq!(throttles(config, 8, 12_500), [200, 210, 220]);
    }
}
