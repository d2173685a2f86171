//! The status of a job: what the control socket and other observers show of it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use pagelift_engine::migration::{Phase, SourceStatus};
use pagelift_engine::pipeline::{Controls, Deltas};
use serde_json::{Value, json};

use super::json;

/// The last status of a job, with its controls. Clones share it.
#[derive(Clone, Debug)]
pub struct JobStatus {
    began: Instant,
    last: Arc<Mutex<Option<SourceStatus>>>,
    deltas: Arc<OnceLock<Arc<Deltas>>>,
    controls: Controls,
}

impl JobStatus {
    /// The status of a job that begins now, with its `controls`.
    pub fn new(controls: Controls) -> Self {
        Self {
            began: Instant::now(),
            last: Arc::default(),
            deltas: Arc::default(),
            controls,
        }
    }

    /// Takes note of the engine's status.
    pub fn update(&self, status: &SourceStatus) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(*status);
    }

    /// Has the counts of this delta cache in the status from now on.
    pub fn set_deltas(&self, deltas: Option<&Arc<Deltas>>) {
        if let Some(deltas) = deltas {
            // A job has one cache: another one would be this one.
            let _ = self.deltas.set(Arc::clone(deltas));
        }
    }

    /// What changes the job's limits and cancels it.
    pub fn controls(&self) -> &Controls {
        &self.controls
    }

    /// Whether the guest is stopped for the hand-over, or has left.
    pub fn is_stopped(&self) -> bool {
        self.last()
            .is_some_and(|status| status.phase.is_downtime() || status.phase == Phase::Completed)
    }

    /// The object with which the control socket answers `status`.
    pub fn to_json(&self) -> Value {
        let mut object = self
            .last()
            .map_or_else(|| json!({}), |status| json::status(&status));
        let cache = self.deltas.get().map(|deltas| deltas.stats());
        object["delta_cache"] = json::delta_cache(cache.as_ref());
        object["elapsed_ms"] = json::ms(self.began.elapsed()).into();
        object["cancelling"] = self.controls.cancel_token().is_cancelled().into();
        object["settings"] = json::settings(&self.controls.settings());
        object
    }

    fn last(&self) -> Option<SourceStatus> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagelift_engine::converge::{ConvergenceStatus, Interval, ThrottleShare};
    use pagelift_engine::migration::{SourceStages, StageTime};
    use pagelift_engine::units::{ByteCount, PageCount, Rate};
    use std::time::Duration;

    #[test]
    fn the_status_says_where_it_is_and_what_was_asked_for() {
        let job = JobStatus::new(Controls::default());
        let time = Duration::from_millis;
        let early = job.to_json();
        assert_eq!(early.get("phase"), None, "nothing is known yet");
        assert_eq!(early["cancelling"], false);
        assert_eq!(early["delta_cache"], Value::Null);
        assert_eq!(early["settings"]["policy"], "predictive");
        assert_eq!(early["settings"]["downtime_ms"], 50.0);
        assert_eq!(early["settings"]["bandwidth_bytes_per_s"], Value::Null);
        job.update(&SourceStatus {
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
        let status = job.to_json();
        assert_eq!(status["phase"], "precopy");
        assert_eq!(status["detailed_phase"], "precopy");
        assert_eq!(status["left_bytes"], 8192);
        assert_eq!(status["blackout_forecast_ms"], 12.0);
        assert_eq!(status["blackout_forecast_low_ms"], 8.0);
        assert_eq!(status["blackout_forecast_high_ms"], 20.0);
        assert_eq!(status["downtime_forecast_ms"], 12.0);
        assert_eq!(status["downtime_forecast_high_ms"], 20.0);
        assert_eq!(status["convergence"], status["prospect"]);
        assert_eq!(
            status["prospect"],
            "8.0 KiB to send, no rate of the link is known yet"
        );
        assert_eq!(status["throttle_pct"], 30.0);
        assert_eq!(status["stages"]["bottleneck"], "link");
        assert!(!job.is_stopped());
        let pages = PageCount(10);
        let deltas = Arc::new(Deltas::new(pages, Deltas::room_for_all(pages)).unwrap());
        job.set_deltas(Some(&deltas));
        assert_eq!(job.to_json()["delta_cache"]["overflows"], 0);
    }
}
