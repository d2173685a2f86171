//! Traces: the observations and decisions of a migration, as text.
//!
//! After the line `pagelift-trace 1 pages=N` there is one line per decision, `key=value` separated by
//! spaces. Unknown keys are skipped, so later versions may add some; those that earlier versions did
//! not write are optional: `held` and `held_written`, `round_page_bytes` (bytes on the wire of a page
//! of the round that ended), `fixed_low_us` and `fixed_high_us` (around `fixed_us`), `page_ns` and
//! `page_sigma` (time of a page that is sent again, and its uncertainty), `demand` (see
//! [`ThrottleResponse`]). A decision within a round is recorded only if it changes something or is
//! the first one under new limits; those are on its line as well.

#[cfg(test)]
pub(super) mod fluid;
mod recorded;
mod replay;
#[cfg(test)]
mod tests;

pub use recorded::Recorded;
pub use replay::{Ended, Model, Run, replay};

use std::fmt;
use std::time::Duration;

use super::{
    Decision, FixedCosts, GiveUp, Interval, Limits, Observation, PageTime, ThrottleResponse,
    ThrottleShare,
};
use crate::units::{ByteCount, Instant, PAGE_BYTES, PageCount, Rate};

/// Largest values that are read, above those of any migration, so that their sums do not overflow:
/// microseconds (a year); pages; bytes and bytes per second; bytes of a page on the wire;
/// nanoseconds and standard deviations.
const MOST_US: u64 = 366 * 24 * 3600 * 1_000_000;
const MOST_PAGES: u64 = 1 << 40;
const MOST_BYTES: u64 = 1 << 52;
const MOST_PAGE_BYTES: f64 = (2 * PAGE_BYTES) as f64;
const MOST_OTHER: f64 = 1e12;

/// How a trace begins.
const MAGIC: &str = "pagelift-trace 1";

/// A decision, and the observation that it was made on.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What the policy saw.
    pub seen: Observation,
    /// What it decided.
    pub decision: Decision,
    /// The limits, if the decision was the first one under them.
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

/// The error of a text that is not a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// The first line is not the one of a trace.
    #[error("this is no trace: the first line must be {MAGIC:?} and pages=N")]
    NotATrace,
    /// A key is missing in a line, or its value is none that a migration could have.
    #[error("line {line}: {key} is missing, or no number that a migration could have")]
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
            "now_us={} elapsed_us={} round={} ended={} left={} held={} in_flight={} \
             page_bytes={:.3} link={} dirty={} fixed_us={} harvested={} interval_us={} \
             throttled={} placed={} round_page_bytes={:.3} fixed_low_us={} fixed_high_us={} demand={:.4} \
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
            seen.between_harvests.as_micros(),
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
            .filter(|pages| *pages <= MOST_PAGES)
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

/// Reads the record in line number `line`.
fn parse_record(line: usize, text: &str) -> Result<Record, TraceError> {
    let value = |key: &'static str| {
        let found = text
            .split(' ')
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        found.ok_or(TraceError::BadLine { line, key })
    };
    let number = |key: &'static str, most: u64| {
        let number = value(key)?.parse().ok();
        number
            .filter(|number| *number <= most)
            .ok_or(TraceError::BadLine { line, key })
    };
    let micros = |key: &'static str| number(key, MOST_US).map(Duration::from_micros);
    let pages = |key: &'static str| number(key, MOST_PAGES).map(PageCount);
    let bytes = |key: &'static str| number(key, MOST_BYTES).map(ByteCount);
    let narrow = |key: &'static str| {
        u32::try_from(number(key, u64::MAX)?).map_err(|_| TraceError::BadLine { line, key })
    };
    let share = |key: &'static str| {
        Ok(ThrottleShare::permille(
            u16::try_from(number(key, u64::MAX)?.min(1000)).unwrap_or(1000),
        ))
    };
    let rate = |key: &'static str| Ok(Some(Rate(bytes(key)?.0)).filter(|rate| *rate > Rate(0)));
    let decimal = |key: &'static str, most: f64| {
        let number = value(key)?.parse::<f64>().ok();
        number
            .filter(|number| (0.0..=most).contains(number))
            .ok_or(TraceError::BadLine { line, key })
    };
    let elapsed = micros("elapsed_us")?;
    let (left, harvested) = (pages("left")?, pages("harvested")?);
    let held = pages("held").unwrap_or(PageCount(0));
    let page_bytes = decimal("page_bytes", MOST_PAGE_BYTES)?;
    let fixed = micros("fixed_us")?;
    // Not in older traces.
    let fixed = Interval::new(
        micros("fixed_low_us").unwrap_or(fixed),
        fixed,
        micros("fixed_high_us").unwrap_or(fixed),
    );
    let page_time = match (
        decimal("page_ns", MOST_OTHER),
        decimal("page_sigma", MOST_OTHER),
    ) {
        (Ok(ns), Ok(sigma)) => Some(PageTime {
            seconds: ns / 1e9,
            sigma,
        }),
        _ => None,
    };
    let seen = Observation {
        now: Instant(0).after(micros("now_us")?),
        elapsed,
        round: narrow("round")?,
        round_ended: number("ended", 1)? == 1,
        left,
        held,
        // All that was written went again then.
        held_written: pages("held_written")
            .unwrap_or_else(|_| PageCount((held.0 + harvested.0).saturating_sub(left.0))),
        in_flight: bytes("in_flight")?,
        bytes_per_page: page_bytes,
        round_page_bytes: decimal("round_page_bytes", MOST_PAGE_BYTES).unwrap_or(page_bytes),
        page_time,
        link: rate("link")?,
        dirty: rate("dirty")?,
        fixed: FixedCosts::lump(fixed),
        harvested,
        between_harvests: micros("interval_us")?,
        throttled: share("throttled")?,
        response: decimal("demand", 1.0)
            .map_or_else(|_| ThrottleResponse::default(), ThrottleResponse::of_demand),
        placed: bytes("placed")?,
    };
    let decision = match value("decision")? {
        "throttle" => Decision::Throttle(share("share")?),
        "stop" => Decision::Stop,
        "force" => Decision::Force,
        "give-up" => Decision::GiveUp(GiveUp::TimedOut {
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
