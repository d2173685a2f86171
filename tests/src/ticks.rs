//! The guest's account of itself, checked across the hosts it ran on.
//!
//! Tick numbers must be consecutive from the first to the last host: a gap is a guest that was
//! lost or ran unseen, a repetition one that ran twice. The checksum of each tick must follow
//! from the seed and the number of writes, and no page may have been found bad.

use core::time::Duration;
use std::time::Instant;

use crate::content::WriteSum;
use crate::guest::Workload;
use crate::serial::{Line, SerialLog};

/// Why the guest's account cannot be true.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TickError {
    /// The guest found pages that do not hold what they must.
    #[error("the guest counts {bad} bad pages at tick {tick}")]
    Bad {
        /// The tick that says so.
        tick: u64,
        /// Findings so far; a page may be found more than once.
        bad: u64,
    },
    /// No tick at all.
    #[error("there is no tick")]
    Empty,
    /// The guest's clock or its count of writes went back.
    #[error("tick {tick}: {what} went back")]
    Backwards {
        /// The tick that says so.
        tick: u64,
        /// Which of the two.
        what: &'static str,
    },
    /// A page was lost, in the guest's words.
    #[error("the guest lost a page: {line}")]
    Lost {
        /// The line.
        line: String,
    },
    /// A line of account that cannot be read.
    #[error("not a tick: {line:?}")]
    Malformed {
        /// The line.
        line: String,
    },
    /// Tick numbers are not consecutive.
    #[error("tick {after} is followed by tick {next} (console {host})")]
    NotConsecutive {
        /// The last good one.
        after: u64,
        /// The one that came instead of `after + 1`.
        next: u64,
        /// Which of the logs, from 0.
        host: usize,
    },
    /// A checksum does not follow from the number of writes.
    #[error("tick {tick}: the checksum of thread {thread} is {got:016x}, not {want:016x}")]
    WrongSum {
        /// The tick that says so.
        tick: u64,
        /// The thread, from 0.
        thread: usize,
        /// What the writes sum to.
        want: u64,
        /// What the guest says.
        got: u64,
    },
}

/// One line of account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    /// From 1.
    pub number: u64,
    /// Writes so far, per thread.
    pub writes: Vec<u64>,
    /// Checksum so far, per thread.
    pub sums: Vec<u64>,
    /// The guest's monotonic clock, in milliseconds.
    pub mono_ms: u64,
    /// Bad pages found so far.
    pub bad: u64,
    /// When the line had come.
    pub at: Instant,
    /// Which log it is from, from 0. A line that was cut by a move counts to the later one.
    pub host: usize,
}

impl Tick {
    fn parse(line: &Line, host: usize) -> Option<Self> {
        let words: Vec<&str> = line.text.split(' ').collect();
        let [
            "tick",
            number,
            "writes",
            writes,
            "sum",
            sums,
            "mono",
            mono,
            "bad",
            bad,
        ] = words[..]
        else {
            return None;
        };
        let writes: Option<Vec<u64>> = writes.split('+').map(|w| w.parse().ok()).collect();
        let sums: Option<Vec<u64>> = sums
            .split('+')
            .map(|s| u64::from_str_radix(s, 16).ok())
            .collect();
        Some(Self {
            number: number.parse().ok()?,
            writes: writes?,
            sums: sums?,
            mono_ms: mono.parse().ok()?,
            bad: bad.parse().ok()?,
            at: line.at,
            host,
        })
    }

    /// Writes so far, over all threads.
    pub fn writes_total(&self) -> u64 {
        self.writes.iter().sum()
    }
}

/// An account that holds.
#[derive(Clone, Debug)]
pub struct Ticks {
    /// All ticks, in order.
    pub ticks: Vec<Tick>,
    /// The longest time between two ticks by the guest's own clock, in milliseconds. Under TCG
    /// that clock stands still while the guest is stopped.
    pub longest_gap_guest_ms: u64,
    /// The longest time between two ticks as seen from outside: what the guest's users feel.
    pub longest_gap_host: Duration,
}

impl Ticks {
    /// Checks the account of one guest with the consoles of its hosts, in the order in which
    /// it ran there.
    ///
    /// A line that was cut by a move is put together again. Costs a few nanoseconds for each
    /// write that the guest made.
    pub fn check(workload: &Workload, logs: &[SerialLog]) -> Result<Self, TickError> {
        let mut sums: Vec<WriteSum> = (0..u64::from(workload.threads))
            .map(|thread| WriteSum::new(workload.seed, thread))
            .collect();
        let mut ticks: Vec<Tick> = Vec::new();
        for (host, line) in stitched(logs) {
            if line.text.starts_with("LOST ") {
                return Err(TickError::Lost { line: line.text });
            }
            if !line.text.starts_with("tick ") {
                continue;
            }
            let Some(tick) = Tick::parse(&line, host) else {
                return Err(TickError::Malformed { line: line.text });
            };
            follows(ticks.last(), &tick)?;
            check_sums(&mut sums, &tick)?;
            ticks.push(tick);
        }
        if ticks.is_empty() {
            return Err(TickError::Empty);
        }
        let pairs = || ticks.windows(2).map(|pair| (&pair[0], &pair[1]));
        Ok(Self {
            longest_gap_guest_ms: pairs()
                .map(|(a, b)| b.mono_ms - a.mono_ms)
                .max()
                .unwrap_or(0),
            longest_gap_host: pairs()
                .map(|(a, b)| b.at.saturating_duration_since(a.at))
                .max()
                .unwrap_or_default(),
            ticks,
        })
    }

    /// Ticks that came from log number `host`.
    pub fn count_on(&self, host: usize) -> usize {
        self.ticks.iter().filter(|tick| tick.host == host).count()
    }
}

/// All whole lines with the number of their log; what a log ends with goes in front of the next
/// log that says anything.
fn stitched(logs: &[SerialLog]) -> Vec<(usize, Line)> {
    let mut lines = Vec::new();
    let mut begun = String::new();
    for (host, log) in logs.iter().enumerate() {
        for line in &log.lines {
            let mut text = std::mem::take(&mut begun) + &line.text;
            // A cut may have come between the two characters that end a line.
            text.truncate(text.trim_end_matches('\r').len());
            lines.push((host, Line { text, at: line.at }));
        }
        begun.push_str(&log.rest);
    }
    lines
}

fn follows(last: Option<&Tick>, tick: &Tick) -> Result<(), TickError> {
    let after = last.map_or(0, |last| last.number);
    if tick.number != after + 1 {
        return Err(TickError::NotConsecutive {
            after,
            next: tick.number,
            host: tick.host,
        });
    }
    if last.is_some_and(|last| tick.mono_ms < last.mono_ms) {
        return Err(TickError::Backwards {
            tick: tick.number,
            what: "the guest's clock",
        });
    }
    if tick.bad != 0 {
        return Err(TickError::Bad {
            tick: tick.number,
            bad: tick.bad,
        });
    }
    Ok(())
}

fn check_sums(sums: &mut [WriteSum], tick: &Tick) -> Result<(), TickError> {
    if tick.writes.len() != sums.len() || tick.sums.len() != sums.len() {
        return Err(TickError::Malformed {
            line: format!("{tick:?}, with {} threads", sums.len()),
        });
    }
    let told = tick.writes.iter().zip(&tick.sums);
    for (thread, (sum, (writes, got))) in sums.iter_mut().zip(told).enumerate() {
        let want = sum.advance_to(*writes).ok_or(TickError::Backwards {
            tick: tick.number,
            what: "the count of writes",
        })?;
        if want != *got {
            return Err(TickError::WrongSum {
                tick: tick.number,
                thread,
                want,
                got: *got,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "ticks_tests.rs"]
mod tests;
