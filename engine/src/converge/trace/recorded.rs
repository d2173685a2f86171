//! A recorded migration as the model of a guest and a link, over which any policy can be run.

use std::time::Duration;

use super::{Model, Trace};
use crate::converge::{DirtyCurve, FixedCosts, Limits, ThrottleResponse, ThrottleShare};
use crate::units::{PAGE_BYTES, Rate};

/// The guest and the link of a trace.
///
/// What the guest writes in a round of another length is read off the dirty curve of the harvests
/// recorded up to that time. A page takes as many bytes on the wire as one of the round that was
/// under way at that time.
#[derive(Clone, Debug)]
pub struct Recorded {
    trace: Trace,
    curve: DirtyCurve,
    /// Records that are in the curve.
    next: usize,
    /// Records whose limits were given out by `new_limits`.
    limits_given: usize,
}

impl Recorded {
    /// The guest and the link of `trace`; `None` if it has no finished round.
    pub fn new(trace: Trace) -> Option<Self> {
        let mut recorded = Self {
            trace,
            curve: DirtyCurve::default(),
            next: 0,
            limits_given: 0,
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

    /// Takes the harvests up to `now` into the curve.
    fn learn(&mut self, now: Duration) {
        while let Some(record) = self.trace.records.get(self.next)
            && record.seen.elapsed <= now
        {
            self.next += 1;
            let seen = &record.seen;
            if seen.round_ended {
                self.curve
                    .harvested(seen.now, seen.between_harvests, seen.lost(), seen.harvested);
            }
        }
    }

    /// The same guest and link, with a user that changes no limits.
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

    /// The rate of the link at `now`, or the next one that was known.
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
        // As it was known by then.
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
        // The last record has the most calibration.
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
        while let Some(record) = self.trace.records.get(self.limits_given)
            && record.seen.elapsed <= now
        {
            self.limits_given += 1;
            newest = record.limits.or(newest);
        }
        newest
    }
}
