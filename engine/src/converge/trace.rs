//! A recorded migration: what a policy saw, and what it decided.
//!
//! The text form is one line per decision, `key=value` separated by spaces, after the line
//! `pagelift-trace 1 pages=N`. Unknown keys are skipped, so that later versions may add some, and
//! those that versions before did not write are optional: `held` and `held_written`, `round_page_bytes` (bytes on the
//! wire of a page of the round that ended), `fixed_low_us` and `fixed_high_us` (around `fixed_us`),
//! `page_ns` and `page_sigma` (time of a page that is sent again, and its uncertainty), `demand`
//! (the part of its processors that the guest wants, see [`Response`]).
//! Decisions within a round are recorded only if they change something, or if a user has changed
//! the limits: the line of a decision that was the first one under new limits has them as well.

use std::fmt;
use std::time::Duration;

use super::replay::Model;
use super::span::Span;
use super::{Decision, DirtyCurve, FixedCosts, Limits, Observation, PageTime, Response, Share};
use crate::units::{ByteCount, Instant, PAGE_BYTES, PageCount, Rate};

/// First words of a trace.
const MAGIC: &str = "pagelift-trace 1";

/// A decision, and what it was made on.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What the policy saw.
    pub seen: Observation,
    /// What it decided.
    pub decision: Decision,
    /// The limits that it was made under, if it was the first one under them.
    pub limits: Option<Limits>,
}

/// All decisions of a migration.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Pages of the first round.
    pub first_pages: PageCount,
    /// The decisions, in order.
    pub records: Vec<Record>,
}

/// Why a text is no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// The first line is not that of a trace.
    #[error("this is no trace: the first line must be {MAGIC:?} and pages=N")]
    NotATrace,
    /// A line lacks a key, or its value is no number.
    #[error("line {line}: {key} is missing or no number")]
    BadLine {
        /// Number of the line, from 1.
        line: usize,
        /// The key.
        key: &'static str,
    },
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = &self.seen;
        let fixed = seen.fixed.total();
        let word = match &self.decision {
            Decision::Continue => "continue",
            Decision::Throttle(_) => "throttle",
            Decision::Stop => "stop",
            Decision::Force => "force",
            Decision::GiveUp(_) => "give-up",
        };
        write!(
            f,
            "now_us={} elapsed_us={} round={} ended={} left={} held={} in_flight={} page_bytes={:.3} \
             link={} dirty={} fixed_us={} harvested={} interval_us={} throttled={} placed={} \
             round_page_bytes={:.3} fixed_low_us={} fixed_high_us={} demand={:.4} \
             held_written={}",
            seen.now.0 / 1000,
            seen.elapsed.as_micros(),
            seen.round,
            u8::from(seen.round_ended),
            seen.left.0,
            seen.held.0,
            seen.in_flight.0,
            seen.bytes_per_page,
            seen.link.map_or(0, |rate| rate.0),
            seen.dirty.map_or(0, |rate| rate.0),
            fixed.likely().as_micros(),
            seen.harvested.0,
            seen.interval.as_micros(),
            seen.throttled.as_permille(),
            seen.placed.0,
            seen.round_page_bytes,
            fixed.low().as_micros(),
            fixed.high().as_micros(),
            seen.response.demand(),
            seen.held_written.0,
        )?;
        if let Some(page) = seen.page_time {
            let ns = page.seconds * 1e9;
            write!(f, " page_ns={ns:.3} page_sigma={:.4}", page.sigma)?;
        }
        write!(f, " decision={word}")?;
        if let Decision::Throttle(share) = self.decision {
            write!(f, " share={}", share.as_permille())?;
        }
        match &self.limits {
            Some(limits) => write!(f, " {limits}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{MAGIC} pages={}", self.first_pages.0)?;
        self.records
            .iter()
            .try_for_each(|record| writeln!(f, "{record}"))
    }
}

impl Trace {
    /// The first line of a trace whose first round has `pages` pages.
    pub fn header(pages: PageCount) -> String {
        format!("{MAGIC} pages={}", pages.0)
    }

    /// Reads a trace.
    ///
    /// A decision to give up is read without its reason.
    ///
    /// # Errors
    /// Names the first line that is not one of a trace.
    pub fn parse(text: &str) -> Result<Self, TraceError> {
        let mut lines = (1..).zip(text.lines());
        let (_, first) = lines.next().ok_or(TraceError::NotATrace)?;
        let pages = first
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.trim().strip_prefix("pages="));
        let pages = pages
            .and_then(|pages| pages.parse().ok())
            .ok_or(TraceError::NotATrace)?;
        let records = lines
            .filter(|(_, text)| !text.trim().is_empty())
            .map(|(line, text)| parse_record(line, text))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            first_pages: PageCount(pages),
            records,
        })
    }
}

fn parse_record(line: usize, text: &str) -> Result<Record, TraceError> {
    let value = |key: &'static str| {
        let found = text
            .split(' ')
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        found.ok_or(TraceError::BadLine { line, key })
    };
    let number = |key: &'static str| {
        value(key)?
            .parse::<u64>()
            .map_err(|_| TraceError::BadLine { line, key })
    };
    let narrow = |key: &'static str| {
        u32::try_from(number(key)?).map_err(|_| TraceError::BadLine { line, key })
    };
    let share = |key: &'static str| {
        Ok(Share::permille(
            u16::try_from(number(key)?.min(1000)).unwrap_or(1000),
        ))
    };
    let rate = |key: &'static str| Ok(Some(Rate(number(key)?)).filter(|rate| rate.0 > 0));
    let decimal = |key: &'static str| {
        let number = value(key)?.parse::<f64>().ok();
        number
            .filter(|number| number.is_finite())
            .ok_or(TraceError::BadLine { line, key })
    };
    let now_us = number("now_us")?;
    let elapsed_us = number("elapsed_us")?;
    let (left, harvested) = (number("left")?, number("harvested")?);
    let held = number("held").unwrap_or(0);
    let page_bytes = decimal("page_bytes")?;
    let fixed_us = number("fixed_us")?;
    // What older traces do not say.
    let fixed = Span::new(
        Duration::from_micros(number("fixed_low_us").unwrap_or(fixed_us)),
        Duration::from_micros(fixed_us),
        Duration::from_micros(number("fixed_high_us").unwrap_or(fixed_us)),
    );
    let page_time = match (decimal("page_ns"), decimal("page_sigma")) {
        (Ok(ns), Ok(sigma)) => Some(PageTime {
            seconds: ns / 1e9,
            sigma,
        }),
        _ => None,
    };
    let seen = Observation {
        now: Instant(now_us.saturating_mul(1000)),
        elapsed: Duration::from_micros(elapsed_us),
        round: narrow("round")?,
        round_ended: number("ended")? == 1,
        left: PageCount(left),
        held: PageCount(held),
        // All that was written went again then.
        held_written: PageCount(
            number("held_written").unwrap_or_else(|_| (held + harvested).saturating_sub(left)),
        ),
        in_flight: ByteCount(number("in_flight")?),
        bytes_per_page: page_bytes,
        round_page_bytes: decimal("round_page_bytes").unwrap_or(page_bytes),
        page_time,
        link: rate("link")?,
        dirty: rate("dirty")?,
        fixed: FixedCosts::lump(fixed),
        harvested: PageCount(harvested),
        interval: Duration::from_micros(number("interval_us")?),
        throttled: share("throttled")?,
        response: decimal("demand").map_or_else(|_| Response::default(), Response::of_demand),
        placed: ByteCount(number("placed")?),
    };
    let decision = match value("decision")? {
        "throttle" => Decision::Throttle(share("share")?),
        "stop" => Decision::Stop,
        "force" => Decision::Force,
        "give-up" => Decision::GiveUp(super::GiveUp::TimedOut {
            limit_s: seen.elapsed.as_secs_f64(),
            left: seen.left.bytes(),
            dirty: seen.dirty.unwrap_or(Rate(0)),
            link: seen.link.unwrap_or(Rate(0)),
        }),
        _ => Decision::Continue,
    };
    let limits = match value("policy") {
        Ok(_) => {
            let limits = Limits::from_values(|key| value(key).ok());
            Some(limits.map_err(|key| TraceError::BadLine { line, key })?)
        }
        Err(_) => None,
    };
    Ok(Record {
        seen,
        decision,
        limits,
    })
}

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
    use super::super::replay::replay;
    use super::super::{Ended, Predictive, PredictiveConfig, StopWhenFits, StopWhenFitsConfig};
    use super::*;

    fn recorded() -> (Trace, super::super::Run) {
        let mut model = Workload::uniform(100_000, 20_000.0).model(3);
        let first_pages = PageCount(model.first_pages() as u64);
        let run = replay(
            &mut model,
            &mut Predictive::new(PredictiveConfig::default()),
        );
        (
            Trace {
                first_pages,
                records: run.records.clone(),
            },
            run,
        )
    }

    #[test]
    fn a_trace_reads_back_as_written() {
        let (trace, _) = recorded();
        let text = trace.to_string();
        let read = Trace::parse(&text).unwrap();
        // Text has microseconds and fewer digits.
        assert_eq!(read.to_string(), text);
        assert_eq!(read.records.len(), trace.records.len());
        assert!(trace.records.len() > 3);
    }

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

    #[test]
    fn a_line_of_an_older_trace_is_read() {
        let line = "now_us=1 elapsed_us=1000 round=1 ended=1 left=7 in_flight=0 page_bytes=99.5 \
                    link=5 dirty=0 fixed_us=10 harvested=7 interval_us=9 throttled=0 placed=0 \
                    decision=continue";
        let record = parse_record(2, line).unwrap();
        assert_eq!(record.seen.round_page_bytes, 99.5);
        assert_eq!(record.seen.page_time, None);
        assert_eq!(
            record.seen.fixed.total(),
            Span::exactly(Duration::from_micros(10))
        );
    }

    #[test]
    fn what_is_no_trace_is_named() {
        assert_eq!(Trace::parse("hello"), Err(TraceError::NotATrace));
        let bad = format!("{}\nnow_us=1", Trace::header(PageCount(1)));
        assert_eq!(
            Trace::parse(&bad),
            Err(TraceError::BadLine {
                line: 2,
                key: "elapsed_us"
            })
        );
    }
}
