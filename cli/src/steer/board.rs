//! Where a migration is, for whoever asks.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pagelift_engine::converge::Limits;
use pagelift_engine::migration::{Phase, SourceStatus};
use pagelift_engine::pipeline::{Controls, Deltas, Settings};
use pagelift_engine::units::Rate;
use serde_json::{Value, json};

use crate::report::{deltas, stages};

/// What a migration shows, and the handle by which it is steered. Clones are of the same one.
#[derive(Clone, Debug)]
pub struct Board {
    began: Instant,
    shown: Arc<Mutex<Option<SourceStatus>>>,
    deltas: Arc<OnceLock<Arc<Deltas>>>,
    controls: Controls,
}

impl Board {
    /// A board for a migration that begins now.
    pub fn new(controls: Controls) -> Self {
        Self {
            began: Instant::now(),
            shown: Arc::default(),
            deltas: Arc::default(),
            controls,
        }
    }

    /// The migration is where `status` says.
    pub fn show(&self, status: &SourceStatus) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(*status);
    }

    /// The migration makes its deltas by these.
    pub fn watch_deltas(&self, deltas: Option<&Arc<Deltas>>) {
        if let Some(deltas) = deltas {
            // A migration has one cache: another one would be this one.
            let _ = self.deltas.set(Arc::clone(deltas));
        }
    }

    /// The handle.
    pub fn controls(&self) -> &Controls {
        &self.controls
    }

    /// Whether the guest is stopped for the hand-over, or has left.
    pub fn is_stopped(&self) -> bool {
        self.last()
            .is_some_and(|status| status.phase.is_downtime() || status.phase == Phase::Completed)
    }

    /// The object that `status` is answered with.
    pub fn status(&self) -> Value {
        let mut object = self.last().map_or_else(|| json!({}), |status| of(&status));
        let cache = self.deltas.get().map(|deltas| deltas.stats());
        object["delta_cache"] = deltas::json(cache.as_ref());
        object["elapsed_ms"] = ms(self.began.elapsed()).into();
        object["cancelling"] = self.controls.cancel_token().is_cancelled().into();
        object["settings"] = settings(&self.controls.settings());
        object
    }

    fn last(&self) -> Option<SourceStatus> {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the engine says.
fn of(status: &SourceStatus) -> Value {
    json!({
        "phase": coarse_phase(status),
        "detailed_phase": status.phase.name(),
        "round": status.round,
        "left_bytes": status.left.bytes().0,
        "sent_bytes": status.sent.0,
        "dirty_bytes_per_s": status.dirty.map(|rate| rate.0),
        "link_bytes_per_s": status.link.map(|rate| rate.0),
        "blackout_forecast_ms": status.forecast.map(|interval| ms(interval.likely())),
        "blackout_forecast_low_ms": status.forecast.map(|interval| ms(interval.low())),
        "blackout_forecast_high_ms": status.forecast.map(|interval| ms(interval.high())),
        "downtime_limit_ms": ms(status.limit),
        "throttle_pct": status.throttle.as_fraction() * 100.0,
        "forced": status.forced,
        "stages": stages::source_json(&status.stages),
        "prospect": status.convergence.map(|convergence| convergence.to_string()),
    })
}

/// The phase by the three words that scripts have known from the beginning.
fn coarse_phase(status: &SourceStatus) -> &'static str {
    match status.phase {
        Phase::Handshake | Phase::Preparing => "handshake",
        Phase::Failed if status.round == 0 => "handshake",
        Phase::Precopy { .. } | Phase::Failed => "precopy",
        _ => "blackout",
    }
}

/// What the user has asked for.
pub fn settings(settings: &Settings) -> Value {
    let Settings { limits, bandwidth } = settings;
    let Limits {
        policy,
        downtime,
        deadline,
        at_deadline,
        throttle_most,
    } = limits;
    json!({
        "policy": policy.name(),
        "downtime_ms": ms(downtime.least()),
        "downtime_most_ms": ms(downtime.most()),
        "deadline_ms": deadline.map(ms),
        "at_deadline": at_deadline.name(),
        "max_throttle_pct": throttle_most.map(|share| share.as_fraction() * 100.0),
        "bandwidth_bytes_per_s": bandwidth.map(|Rate(rate)| rate),
    })
}

/// Milliseconds, to the microsecond.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagelift_engine::converge::{ConvergenceStatus, Interval, ThrottleShare};
    use pagelift_engine::migration::{SourceStages, StageTime};
    use pagelift_engine::units::{ByteCount, PageCount};

    #[test]
    fn the_status_says_where_it_is_and_what_was_asked_for() {
        let board = Board::new(Controls::default());
        let time = Duration::from_millis;
        let early = board.status();
        assert_eq!(early.get("phase"), None, "nothing is known yet");
        assert_eq!(early["cancelling"], false);
        assert_eq!(early["delta_cache"], Value::Null);
        assert_eq!(early["settings"]["policy"], "predictive");
        assert_eq!(early["settings"]["downtime_ms"], 50.0);
        assert_eq!(early["settings"]["bandwidth_bytes_per_s"], Value::Null);
        board.show(&SourceStatus {
            phase: Phase::Precopy { round: 3 },
            round: 3,
            left: PageCount(2),
            sent: ByteCount(7),
            dirty: Some(Rate(1)),
            link: None,
            forecast: Some(Interval::new(time(8), time(12), time(20))),
            limit: time(50),
            convergence: Some(ConvergenceStatus {
                left: ByteCount(8192),
                dirty: Some(Rate(1)),
                link: None,
                downtime: None,
                limit: time(50),
                throttle: ThrottleShare::NONE,
                as_it_is: None,
                throttled: None,
                delta_share: None,
            }),
            forced: false,
            throttle: ThrottleShare::permille(300),
            stages: SourceStages {
                send: StageTime {
                    busy: time(1),
                    waiting: time(2),
                },
                ..SourceStages::default()
            },
        });
        let status = board.status();
        assert_eq!(status["phase"], "precopy");
        assert_eq!(status["detailed_phase"], "precopy");
        assert_eq!(status["left_bytes"], 8192);
        assert_eq!(status["blackout_forecast_ms"], 12.0);
        assert_eq!(status["blackout_forecast_low_ms"], 8.0);
        assert_eq!(status["blackout_forecast_high_ms"], 20.0);
        assert_eq!(
            status["prospect"],
            "8.0 KiB to send, no rate of the link is known yet"
        );
        assert_eq!(status["throttle_pct"], 30.0);
        assert_eq!(status["stages"]["bottleneck"], "link");
        assert!(!board.is_stopped());
        let pages = PageCount(10);
        let deltas = Arc::new(Deltas::new(pages, Deltas::room_for_all(pages)).unwrap());
        board.watch_deltas(Some(&deltas));
        assert_eq!(board.status()["delta_cache"]["overflows"], 0);
    }
}
