//! What a migration says of itself: where it is, and how it went.

use super::types::SourceStatus;
use super::{Source, State};
use crate::converge::DowntimeForecast;
use crate::migration::phase::Phase;
use crate::migration::report::{DowntimeParts, ReferenceReport, Report};
use crate::units::{ByteCount, Instant, PageCount};

/// Moments of the migration that the report needs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timestamps {
    pub(super) began: Instant,
    pub(super) guest_stopped: Instant,
    pub(super) last_harvested: Instant,
    pub(super) placed: Instant,
    pub(super) complete: Instant,
    pub(super) ready: Instant,
    pub(super) running: Instant,
}

impl Source {
    /// Where the migration is.
    pub fn status(&self, now: Instant) -> SourceStatus {
        SourceStatus {
            phase: self.phase(),
            round: self.round,
            left: PageCount(self.left),
            sent: self.page_bytes,
            dirty: self.estimates.dirty(),
            link: self.estimates.link.rate(),
            forecast: if self.forced {
                self.forecast
            } else {
                DowntimeForecast::of(&self.observe(now, false))
            }
            .map(|parts| parts.total()),
            convergence: self.convergence,
            limit: self.policy.downtime_limit(),
            forced: self.forced,
            throttle: self.throttle,
            stages: self.stages,
        }
    }

    fn phase(&self) -> Phase {
        match self.state {
            State::Greeting => Phase::Handshake,
            State::Arming => Phase::Preparing,
            State::Round | State::Harvesting | State::Resting => {
                Phase::Precopy { round: self.round }
            }
            State::Stopping => Phase::Stopping,
            State::LastRound | State::Completing => Phase::LastRound,
            State::SavingState | State::Loading => Phase::DeviceState,
            State::Ready => Phase::Ready,
            State::HandedOver => Phase::HandingOver,
            State::Completed => Phase::Completed,
            State::Failed => Phase::Failed,
        }
    }

    /// The report of a completed migration.
    pub fn report(&self) -> Report {
        let times = &self.times;
        // Without digests, what comes after the last acknowledgement is the news of it.
        let placed = if self.verify {
            times.placed
        } else {
            times.complete
        };
        Report {
            total: times.running.since(times.began),
            downtime: DowntimeParts {
                stop: times
                    .last_harvested
                    .since(times.guest_stopped)
                    .saturating_sub(self.last_harvest_took),
                harvest: self
                    .last_harvest_took
                    .min(times.last_harvested.since(times.guest_stopped)),
                pages: placed.since(times.last_harvested),
                verify: times.complete.since(placed),
                state: times.ready.since(times.complete),
                hand_over: times.running.since(times.ready),
            },
            forecast: self.forecast,
            rounds: self.round,
            guest_bytes: self.layout.pages().bytes(),
            page_wire_bytes: self.page_bytes,
            state_bytes: self.state_bytes,
            pages: self.pages,
            references: ReferenceReport {
                saved: {
                    let found = self.pages.reference.saturating_sub(self.answers.missing());
                    let found = PageCount(found).bytes().0;
                    ByteCount(found.saturating_sub(self.encoded.reference))
                },
                missing: PageCount(self.answers.missing()),
                catalogue: PageCount(self.references().map_or(0, |own| own.catalogue.told())),
            },
            encoded: self.encoded,
            stages: self.stages,
            dirty: self.estimates.dirty(),
            link: self.estimates.link.rate(),
            forced: self.forced,
            throttle_most: self.throttle_most,
            verified: self.digest_here.is_some() && self.digest_here == self.digest_there,
            target_cpu: self.target_cpu,
        }
    }
}
