//! A recorded migration as a guest and a link, to run another policy over.

use std::time::Duration;

use super::replay::Model;
use super::{DirtyCurve, FixedCosts, Limits, Response, Share, Trace};
use crate::units::{PAGE_BYTES, Rate};

/// The guest and the link of a trace, to run another policy over.
///
/// What the guest would have written in a round of another length is read off the curve of the
/// harvests that were recorded up to that time; after the trace's end, off the last ones. A page
/// takes as many bytes on the wire as one of the round that was under way at that time.
#[derive(Clone, Debug)]
pub struct Recorded {
    trace: Trace,
    curve: DirtyCurve,
    /// Records that the curve has seen.
    next: usize,
    /// Records whose limits have been told.
    told: usize,
}

impl Recorded {
    /// The guest and the link of `trace`; `None` if it has no finished round.
    pub fn new(trace: Trace) -> Option<Self> {
        let mut recorded = Self {
            trace,
            curve: DirtyCurve::default(),
            next: 0,
            told: 0,
        };
        let first = recorded
            .trace
            .records
            .iter()
            .find(|record| record.seen.round_ended)?;
        let until = first.seen.elapsed;
        recorded.learn(until);
        Some(recorded)
    }

    /// Shows the curve the harvests up to `now`.
    fn learn(&mut self, now: Duration) {
        while let Some(record) = self.trace.records.get(self.next)
            && record.seen.elapsed <= now
        {
            self.next += 1;
            let seen = &record.seen;
            if seen.round_ended {
                self.curve
                    .harvested(seen.now, seen.interval, seen.lost(), seen.harvested);
            }
        }
    }

    /// The same guest and link, of a user who changes nothing.
    #[must_use]
    pub fn without_limits(mut self) -> Self {
        for record in &mut self.trace.records {
            record.limits = None;
        }
        self
    }

    /// The limits of the first record that has some.
    pub fn first_limits(&self) -> Option<Limits> {
        self.trace.records.iter().find_map(|record| record.limits)
    }

    /// The rate that the link was known to have at `now`, or soonest after that.
    fn link_at(&self, now: Duration) -> Option<Rate> {
        let mut known = self
            .trace
            .records
            .iter()
            .filter(|record| record.seen.link.is_some());
        let last = known.clone().next_back();
        let later = known.find(|record| record.seen.elapsed >= now);
        later.or(last)?.seen.link
    }
}

impl Model for Recorded {
    fn first_pages(&self) -> f64 {
        self.trace.first_pages.0 as f64
    }

    fn distinct(&mut self, now: Duration, time: Duration, throttled: Share) -> f64 {
        self.learn(now);
        let most = self.trace.first_pages.0 as f64;
        let lost = self.response(now).lost(throttled);
        self.curve.pages_in(time, lost).unwrap_or(0.0).min(most)
    }

    fn response(&mut self, now: Duration) -> Response {
        // Known best in the end, and then no better than by the last record up to then.
        let rounds = self.trace.records.iter().map(|record| &record.seen);
        let known = rounds.take_while(|seen| seen.elapsed <= now);
        known
            .last()
            .map_or_else(Response::default, |seen| seen.response)
    }

    fn link(&mut self, now: Duration) -> f64 {
        self.link_at(now).map_or(125e6, |rate| rate.0 as f64)
    }

    fn costs(&self) -> FixedCosts {
        // The last one: by then most had been rehearsed.
        let last = self.trace.records.last();
        last.map_or_else(FixedCosts::default, |record| record.seen.fixed)
    }

    fn fixed(&mut self) -> Duration {
        self.costs().total().likely()
    }

    fn bytes_per_page(&mut self, now: Duration) -> f64 {
        // The round that began at `now` ended later.
        let rounds = self.trace.records.iter().map(|record| &record.seen);
        let mut rounds = rounds.filter(|seen| seen.round_ended);
        let last = rounds.clone().next_back();
        let under_way = rounds.find(|seen| seen.elapsed > now).or(last);
        under_way.map_or(PAGE_BYTES as f64, |seen| seen.round_page_bytes)
    }

    fn new_limits(&mut self, now: Duration) -> Option<Limits> {
        let mut newest = None;
        while let Some(record) = self.trace.records.get(self.told)
            && record.seen.elapsed <= now
        {
            self.told += 1;
            newest = record.limits.or(newest);
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::super::fluid::Workload;
    use super::super::trace::tests::recorded;
    use super::super::{
        Ended, Predictive, PredictiveConfig, StopWhenFits, StopWhenFitsConfig, replay,
    };
    use super::*;
    use crate::units::PageCount;

    #[test]
    fn replaying_a_policy_over_its_own_trace_ends_alike() {
        let (trace, run) = recorded();
        let mut model = Recorded::new(trace).unwrap();
        let again = replay(
            &mut model,
            &mut Predictive::new(PredictiveConfig::default()),
        );
        assert!(matches!(again.ended, Ended::Completed { .. }), "{again:?}");
        let ratio = again.took.as_secs_f64() / run.took.as_secs_f64();
        assert!(
            (0.5..2.0).contains(&ratio),
            "{:?} against {:?}",
            again.took,
            run.took
        );
    }

    /// A record from before anything was placed knows no rate: the one that comes after does.
    #[test]
    fn a_record_without_a_rate_says_nothing_of_the_link() {
        let (mut trace, _) = recorded();
        let known = trace.records[0].seen.link.unwrap();
        let mut early = trace.records[0].clone();
        early.seen.elapsed = Duration::from_millis(1);
        early.seen.round_ended = false;
        early.seen.link = None;
        trace.records.insert(0, early);
        let mut model = Recorded::new(trace).unwrap();
        assert_eq!(model.link(Duration::ZERO) as u64, known.0);
    }

    #[test]
    fn another_policy_may_end_otherwise() {
        let mut model = Workload::uniform(500_000, 100_000.0).model(3);
        let first_pages = PageCount(model.first_pages() as u64);
        let run = replay(
            &mut model,
            &mut Predictive::new(PredictiveConfig::default()),
        );
        assert!(matches!(run.ended, Ended::Completed { .. }));
        let mut model = Recorded::new(Trace {
            first_pages,
            records: run.records,
        })
        .unwrap();
        let again = replay(
            &mut model,
            &mut StopWhenFits::new(StopWhenFitsConfig::default()),
        );
        assert_eq!(again.ended, Ended::GaveUp);
    }

    #[test]
    fn each_round_is_replayed_with_its_own_page_size() {
        let (mut trace, run) = recorded();
        for (record, round) in trace.records.iter_mut().zip(1..) {
            record.seen.round_page_bytes = if round == 1 { 4100.0 } else { 100.0 };
        }
        let first_ended = trace.records[0].seen.elapsed;
        let mut model = Recorded::new(trace).unwrap();
        let mut size = |at| Model::bytes_per_page(&mut model, at);
        assert_eq!(size(Duration::ZERO), 4100.0);
        assert_eq!(size(first_ended), 100.0);
        assert_eq!(size(run.took * 2), 100.0);
        let mut policy = Predictive::new(PredictiveConfig::default());
        let again = replay(&mut model, &mut policy);
        assert_eq!(again.records[0].seen.round_page_bytes.round(), 4100.0);
        // A first round in full, and next to nothing after it.
        let first_bytes = model.first_pages() * 4100.0;
        assert!((again.sent.0 as f64) < first_bytes * 1.02, "{again:?}");
    }
}
