//! Where a source is, for display, and the report of a completed migration.

use super::Source;
use super::types::SourceStatus;
use crate::converge::DowntimeForecast;
use crate::migration::phase::Phase;
use crate::migration::report::{DedupReport, Report};
use crate::units::{ByteCount, Instant, PageCount};

impl Source {
    /// Where the migration is.
    pub fn status(&self, now: Instant) -> SourceStatus {
        let estimates = self.measures.estimates();
        let decision = self.state.decision();
        let forced = decision.is_some_and(|decision| decision.forced);
        let forecast = match decision {
            Some(decision) if forced => decision.forecast,
            _ => DowntimeForecast::of(&self.observe(now, false)),
        };
        SourceStatus {
            phase: self.phase(),
            round: self.round,
            left: self.send_set.left(),
            sent: self.totals.page_wire_bytes,
            dirty: estimates.dirty(),
            link: estimates.link.rate(),
            forecast: forecast.map(|parts| parts.total()),
            limit: self.convergence.policy.downtime_limit(),
            convergence: self.convergence.status(),
            forced,
            throttle: self.throttle.given(),
            stages: self.totals.stages,
        }
    }

    /// The phase alone.
    pub fn phase(&self) -> Phase {
        self.state.phase(self.round)
    }

    /// The report of a completed migration.
    pub fn report(&self) -> Report {
        let (totals, estimates) = (&self.totals, self.measures.estimates());
        let switchover = self.state.switchover();
        let decision = self.state.decision();
        Report {
            total: switchover.map_or_else(Default::default, |own| own.since().since(self.began)),
            downtime: switchover.map_or_else(Default::default, |own| own.downtime()),
            forecast: decision.and_then(|decision| decision.forecast),
            forced: decision.is_some_and(|decision| decision.forced),
            rounds: self.round,
            guest_bytes: self.layout.pages().bytes(),
            page_wire_bytes: totals.page_wire_bytes,
            state_bytes: totals.state_bytes,
            pages: totals.pages,
            dedup: self.dedup_report(),
            encoded: totals.encoded,
            stages: totals.stages,
            dirty: estimates.dirty(),
            link: estimates.link.rate(),
            throttle_most: self.throttle.most_given(),
            verified: self.verify && switchover.is_some_and(|own| own.is_complete()),
            target_cpu: self.target_cpu,
        }
    }

    fn dedup_report(&self) -> DedupReport {
        let missing = self.missing_pages.missing();
        let found = self.totals.pages.reference.saturating_sub(missing);
        let whole = PageCount(found).bytes().0;
        DedupReport {
            saved: ByteCount(whole.saturating_sub(self.totals.encoded.reference)),
            missing: PageCount(missing),
            base_pages: PageCount(self.dedup().map_or(0, |own| own.fingerprints.told())),
        }
    }
}
