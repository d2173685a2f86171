//! Log events of a migration: its phases, its throttle, and how it ended.
//!
//! They are derived from the status that the coordinator looks at anyway, and emitted by it, in a
//! span `migration` with the migration's id. Machines and data channels emit nothing: a page costs
//! the same with and without a log. Failures are events of level `info`, since they are returned
//! as well.

use std::time::Duration;

use tracing::{Span, debug, field, info, info_span, warn};

use crate::converge::ThrottleShare;
use crate::migration::{Failure, Phase, Report, SourceStatus, TargetStatus};
use crate::units::Rate;
use crate::wire::SessionId;

/// What the log has said of a source.
#[derive(Debug, Default)]
pub(super) struct SourceLog {
    phase: Option<Phase>,
    throttle: ThrottleShare,
}

impl SourceLog {
    /// The span of the migration `session`.
    pub(super) fn span(session: SessionId) -> Span {
        info_span!("migration", id = %session, side = "source")
    }

    /// Logs what has changed.
    pub(super) fn saw(&mut self, status: &SourceStatus) {
        if self.phase.replace(status.phase) != Some(status.phase) {
            let phase = status.phase.name();
            let (left_bytes, sent_bytes) = (status.left.bytes().0, status.sent.0);
            match status.phase {
                Phase::Precopy { round } if round > 1 => {
                    let rate = |rate: Option<Rate>| rate.map(|rate| rate.0);
                    debug!(
                        round,
                        left_bytes,
                        sent_bytes,
                        dirty_bytes_per_s = rate(status.dirty),
                        link_bytes_per_s = rate(status.link),
                        forecast_ms = status.forecast.map(|forecast| ms(forecast.likely())),
                        "round"
                    );
                }
                Phase::Stopping => info!(
                    phase,
                    left_bytes,
                    sent_bytes,
                    forecast_ms = status.forecast.map(|forecast| ms(forecast.likely())),
                    limit_ms = ms(status.limit),
                    forced = status.forced,
                    "stopping the guest"
                ),
                _ => info!(phase, left_bytes, sent_bytes, "phase"),
            }
        }
        if self.throttle != status.throttle {
            self.throttle = status.throttle;
            info!(
                share_pct = status.throttle.as_fraction() * 100.0,
                "throttle"
            );
        }
    }

    /// Logs the end.
    pub(super) fn ended(result: &Result<Report, Failure>) {
        match result {
            Ok(report) => info!(
                total_ms = ms(report.total),
                downtime_ms = ms(report.downtime.total()),
                rounds = report.rounds,
                wire_bytes = report.page_wire_bytes.0 + report.state_bytes.0,
                "completed"
            ),
            Err(failure) => did_not_complete(failure),
        }
    }
}

/// What the log has said of a target.
#[derive(Debug)]
pub(super) struct TargetLog {
    span: Span,
    session: Option<SessionId>,
    phase: Option<Phase>,
    source_lost: bool,
}

impl TargetLog {
    /// The log of a migration whose id the source is yet to say.
    pub(super) fn new() -> Self {
        Self {
            span: info_span!("migration", id = field::Empty, side = "target"),
            session: None,
            phase: None,
            source_lost: false,
        }
    }

    /// The span of the migration.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Logs what has changed.
    pub(super) fn saw(&mut self, session: Option<SessionId>, status: &TargetStatus) {
        if let (None, Some(session)) = (self.session, session) {
            self.session = Some(session);
            self.span.record("id", field::display(session));
        }
        if self.phase.replace(status.phase) != Some(status.phase) {
            let (phase, received_bytes) = (status.phase.name(), status.received.0);
            match status.phase {
                Phase::Precopy { round } if round > 1 => debug!(round, received_bytes, "round"),
                _ => info!(phase, received_bytes, "phase"),
            }
        }
        if self.source_lost != status.source_lost {
            self.source_lost = status.source_lost;
            match status.source_lost {
                true => warn!("the source is lost during the hand-over"),
                false => info!("the source is back"),
            }
        }
    }

    /// Logs the end.
    pub(super) fn ended<T>(result: &Result<T, Failure>) {
        match result {
            Ok(_) => info!("completed"),
            Err(failure) => did_not_complete(failure),
        }
    }
}

fn did_not_complete(failure: &Failure) {
    info!(
        code = failure.error.code(),
        guest = failure.guest.name(),
        error = %failure.error,
        "did not complete"
    );
}

/// Milliseconds, to the microsecond.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
