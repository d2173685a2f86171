//! A recorded migration as a guest and a link that any policy can be run over.

use std::time::Duration;

use super::{Model, Trace};
use crate::converge::{DirtyCurve, FixedCosts, Limits, ThrottleResponse, ThrottleShare};
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

    fn distinct(&mut self, now: Duration, time: Duration, throttled: ThrottleShare) -> f64 {
        self.learn(now);
        let most = self.trace.first_pages.0 as f64;
        let lost = self.response(now).lost(throttled);
        self.curve.pages_in(time, lost).unwrap_or(0.0).min(most)
    }

    fn response(&mut self, now: Duration) -> ThrottleResponse {
        // Known best in the end, and then no better than by the last record up to then.
        let rounds = self.trace.records.iter().map(|record| &record.seen);
        let known = rounds.take_while(|seen| seen.elapsed <= now);
        known
            .last()
            .map_or_else(ThrottleResponse::default, |seen| seen.response)
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
