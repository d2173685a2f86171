//! A recorded migration: what a policy saw, and what it decided.
//!
//! The text form is one line per decision, `key=value` separated by spaces, after the line
//! `pagelift-trace 1 pages=N`. Unknown keys are skipped, so that later versions may add some.
//! Decisions within a round are recorded only if they change something.

use std::fmt;
use std::time::Duration;

use super::replay::Model;
use super::{Decision, DirtyCurve, Observation, Share};
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
        let word = match &self.decision {
            Decision::Continue => "continue",
            Decision::Throttle(_) => "throttle",
            Decision::Stop => "stop",
            Decision::GiveUp(_) => "give-up",
        };
        write!(
            f,
            "now_us={} elapsed_us={} round={} ended={} left={} held={} in_flight={} page_bytes={:.3} \
             link={} dirty={} fixed_us={} harvested={} interval_us={} throttled={} placed={} \
             decision={word}",
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
            seen.fixed.as_micros(),
            seen.harvested.0,
            seen.interval.as_micros(),
            seen.throttled.as_permille(),
            seen.placed.0,
        )?;
        match self.decision {
            Decision::Throttle(share) => write!(f, " share={}", share.as_permille()),
            _ => Ok(()),
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
    let seen = Observation {
        now: Instant(number("now_us")?.saturating_mul(1000)),
        elapsed: Duration::from_micros(number("elapsed_us")?),
        round: narrow("round")?,
        round_ended: number("ended")? == 1,
        left: PageCount(number("left")?),
        held: PageCount(number("held")?),
        in_flight: ByteCount(number("in_flight")?),
        bytes_per_page: value("page_bytes")?
            .parse()
            .map_err(|_| TraceError::BadLine {
                line,
                key: "page_bytes",
            })?,
        link: rate("link")?,
        dirty: rate("dirty")?,
        fixed: Duration::from_micros(number("fixed_us")?),
        harvested: PageCount(number("harvested")?),
        interval: Duration::from_micros(number("interval_us")?),
        throttled: share("throttled")?,
        placed: ByteCount(number("placed")?),
    };
    let decision = match value("decision")? {
        "throttle" => Decision::Throttle(share("share")?),
        "stop" => Decision::Stop,
        "give-up" => Decision::GiveUp(super::GiveUp::TimedOut {
            limit_s: seen.elapsed.as_secs_f64(),
            left: seen.left.bytes(),
            dirty: seen.dirty.unwrap_or(Rate(0)),
            link: seen.link.unwrap_or(Rate(0)),
        }),
        _ => Decision::Continue,
    };
    Ok(Record { seen, decision })
}

/// The guest and the link of a trace, to run another policy over.
///
/// What the guest would have written in a round of another length is read off the curve of the
/// harvests that were recorded up to that time; after the trace's end, off the last ones.
#[derive(Clone, Debug)]
pub struct Recorded {
    trace: Trace,
    curve: DirtyCurve,
    /// Records that the curve has seen.
    next: usize,
}

impl Recorded {
    /// The guest and the link of `trace`; `None` if it has no finished round.
    pub fn new(trace: Trace) -> Option<Self> {
        let mut recorded = Self {
            trace,
            curve: DirtyCurve::default(),
            next: 0,
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
                    .harvested(seen.now, seen.interval, seen.throttled, seen.harvested);
            }
        }
    }

    fn at(&self, now: Duration) -> Option<&Observation> {
        let records = &self.trace.records;
        let later = records.iter().find(|record| record.seen.elapsed >= now);
        later.or_else(|| records.last()).map(|record| &record.seen)
    }
}

impl Model for Recorded {
    fn first_pages(&self) -> f64 {
        self.trace.first_pages.0 as f64
    }

    fn distinct(&mut self, now: Duration, time: Duration, throttled: Share) -> f64 {
        self.learn(now);
        let most = self.trace.first_pages.0 as f64;
        self.curve
            .pages_in(time, throttled)
            .unwrap_or(0.0)
            .min(most)
    }

    fn link(&mut self, now: Duration) -> f64 {
        let link = self.at(now).and_then(|seen| seen.link);
        link.map_or(125e6, |rate| rate.0 as f64)
    }

    fn fixed(&self) -> Duration {
        self.trace
            .records
            .first()
            .map_or(Duration::ZERO, |record| record.seen.fixed)
    }

    fn bytes_per_page(&self) -> f64 {
        let records = &self.trace.records;
        records
            .last()
            .map_or(PAGE_BYTES as f64, |record| record.seen.bytes_per_page)
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
