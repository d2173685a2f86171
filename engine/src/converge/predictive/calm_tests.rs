//! A guest that calms down while it is throttled is let go, or handed over, at once.

use std::time::Duration;

use super::super::trace::fluid::Workload;
use super::{Decision, Predictive, PredictiveConfig, ThrottleShare};

/// What the policy decided at the first end of a round that began after the guest had calmed
/// down, and whether it was throttled then.
fn after_calm(calm_s: u64) -> Option<(Decision, bool)> {
    let mut workload = Workload::uniform(600_000, 60_000.0);
    let calm = Duration::from_secs(calm_s);
    workload.calm_from = Some(calm);
    let config = PredictiveConfig {
        timeout: Duration::from_secs(600),
        ..PredictiveConfig::default()
    };
    let ran = workload.run(&mut Predictive::new(config), 3);
    let record = ran.records.into_iter().find(|record| {
        let began = record
            .seen
            .elapsed
            .saturating_sub(record.seen.between_harvests);
        record.seen.round_ended && began >= calm
    })?;
    Some((record.decision, record.seen.throttled > ThrottleShare::NONE))
}

#[test]
fn a_guest_that_calms_down_under_a_throttle_is_let_go() {
    let mut throttled = 0;
    for calm_s in 20..120 {
        let Some((decision, was_throttled)) = after_calm(calm_s) else {
            continue;
        };
        if !was_throttled {
            continue;
        }
        throttled += 1;
        assert!(
            matches!(
                decision,
                Decision::Stop | Decision::Throttle(ThrottleShare::NONE)
            ),
            "calm from {calm_s} s: {decision:?}"
        );
    }
    assert!(
        throttled > 0,
        "no run was throttled when its guest calmed down"
    );
}
