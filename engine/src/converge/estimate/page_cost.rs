//! The cost of a page that is sent again: time until it is acknowledged, and bytes on the wire.
//!
//! The first round reads, frames and places memory in long runs. Pages written since then lie
//! scattered: each costs system calls on both sides, and often goes as a delta. The pages of the
//! downtime are of that kind, so they are forecast from the later rounds: for each the time from
//! its beginning until all of it was acknowledged, less one round trip, divided by its pages.
//! Rounds of about as many pages as are left count most, old ones less. The weighted median of the
//! rounds counts, since other work may hold a round up.
//!
//! Before there is a later round, the link's rate and a guess for scattered pages ([`SCATTERED`])
//! must do, with an uncertainty that makes another round worth its time.

use std::time::Duration;

use super::LinkRate;
use crate::units::{ByteCount, PAGE_BYTES, PageCount};

/// Rounds kept, beside the first.
const ROUNDS: usize = 8;

/// Weight of a round relative to the one after it.
const AGEING: f64 = 0.7;

/// Width of the kernel in the logarithm of a round's pages: rounds of half or twice as many pages
/// count about 85 %.
const WIDTH: f64 = 1.2;

/// Seconds of a scattered page before one was measured: reading and placing it are a system call of
/// about 1 us each, and its part of a frame is checked twice.
const SCATTERED: f64 = 4e-6;

/// Standard deviation of the logarithm while [`SCATTERED`] decides: a factor of about two.
const GUESS_SIGMA: f64 = 0.6;

/// The same while the link's rate decides, or only one round is known.
const ONE_SIGMA: f64 = 0.3;

/// The least.
pub(in crate::converge) const LEAST_SIGMA: f64 = 0.1;

/// Added for each factor of e between the pages that are left and those of the nearest round.
const FAR_SIGMA: f64 = 0.08;

/// Largest distance from the median, in logarithms, at which a round counts for the spread: one that
/// was held up once says nothing of it.
const MOST_OFF: f64 = 1.0;

/// Least pages of a round that counts; in smaller ones the round trip decides.
const LEAST_PAGES: f64 = 32.0;

/// A round that was acknowledged completely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundSent {
    /// Its pages, including those that turned out to be unchanged.
    pub pages: PageCount,
    /// Of these, those that held only zeros.
    pub zero: PageCount,
    /// Of these, those that went as deltas, or not at all since they were unchanged.
    pub delta: PageCount,
    /// Its bytes on the wire.
    pub bytes: ByteCount,
    /// From its first page to its last acknowledgement, without what was under way before it.
    pub time: Duration,
}

/// Time of a page until it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PageTime {
    /// In seconds.
    pub seconds: f64,
    /// Standard deviation of its logarithm.
    pub sigma: f64,
}

/// The rounds of a migration that count.
#[derive(Clone, Debug, Default)]
pub struct PageCosts {
    first: Option<RoundSent>,
    later: Vec<RoundSent>,
}

impl PageCosts {
    /// A round was acknowledged.
    pub fn round(&mut self, round: RoundSent) {
        if self.first.is_none() {
            self.first = Some(round);
            return;
        }
        if round.pages.0 == 0 {
            return;
        }
        if self.later.len() == ROUNDS {
            self.later.remove(0);
        }
        self.later.push(round);
    }

    /// The link has changed: only the bytes of a page of the last round are still known.
    pub fn forget_times(&mut self) {
        self.first = self.later.pop().or(self.first);
        self.later.clear();
    }

    /// The later rounds with their weights, if `left` pages are left.
    fn weighted(&self, left: f64) -> impl Iterator<Item = (&RoundSent, f64)> {
        let distance = move |round: &RoundSent| {
            let pages = (round.pages.0 as f64).max(LEAST_PAGES);
            (pages / left.max(LEAST_PAGES)).ln().abs()
        };
        let rounds = self.later.iter().rev().zip(0..);
        let nearest = self.later.iter().map(distance).fold(f64::MAX, f64::min);
        rounds.map(move |(round, age)| {
            let off = (distance(round) - nearest) / WIDTH;
            (round, AGEING.powi(age) * (-0.5 * off * off).exp())
        })
    }

    /// Time of each of `left` pages over `link`, whose round trip is `trip`; `None` if nothing was
    /// ever acknowledged.
    pub fn time(&self, left: PageCount, link: &LinkRate, trip: Duration) -> Option<PageTime> {
        let left = left.0 as f64;
        let seen = self.later.iter().map(|round| round.pages.0).sum::<u64>();
        if (seen as f64) < LEAST_PAGES {
            let wire = self.bytes(PageCount(left as u64)) / link.rate()?.0.max(1) as f64;
            return Some(PageTime {
                seconds: wire.max(SCATTERED),
                sigma: if wire > SCATTERED * 3.0 {
                    ONE_SIGMA.hypot(link.sigma())
                } else {
                    GUESS_SIGMA
                },
            });
        }
        // The round trip is most of a round of few pages.
        let page = |round: &RoundSent| {
            let net = round.time.saturating_sub(trip).max(round.time / 4);
            (net.as_secs_f64() / round.pages.0 as f64).max(1e-9)
        };
        let rounds = self.weighted(left);
        let seconds = median(rounds.map(|(round, weight)| {
            // A delay counts less in a long round.
            (page(round), weight * (round.pages.0 as f64).sqrt())
        }));
        let (mut total, mut variance, mut known) = (0.0, 0.0, 0);
        let mut nearest = f64::MAX;
        for (round, weight) in self.weighted(left) {
            let count = round.pages.0 as f64;
            if count >= LEAST_PAGES {
                let off = (page(round) / seconds).ln().clamp(-MOST_OFF, MOST_OFF);
                (total, variance, known) =
                    (total + weight, variance + weight * off * off, known + 1);
                let away = (count / left.max(LEAST_PAGES)).ln().abs();
                nearest = nearest.min(away);
            }
        }
        let sigma = match known {
            0 => GUESS_SIGMA,
            1 => ONE_SIGMA,
            _ => LEAST_SIGMA.hypot((variance / total).sqrt()),
        };
        let far = if known > 0 { FAR_SIGMA * nearest } else { 0.0 };
        Some(PageTime {
            seconds,
            sigma: sigma + far,
        })
    }

    /// Bytes on the wire of each of `left` pages.
    pub fn bytes(&self, left: PageCount) -> f64 {
        let (mut bytes, mut pages) = (0.0, 0.0);
        for (round, weight) in self.weighted(left.0 as f64) {
            bytes += weight * round.bytes.0 as f64;
            pages += weight * round.pages.0 as f64;
        }
        if pages > 0.0 {
            return bytes / pages;
        }
        // A page that was written is seldom zero, so zero pages of the first round do not count.
        let whole = |round: &RoundSent| {
            let filled = round.pages.0 - round.zero.0;
            (filled > 0).then(|| (round.bytes.0 as f64 / filled as f64).min(WHOLE))
        };
        self.first.as_ref().and_then(whole).unwrap_or(WHOLE)
    }

    /// Part of the pages of the last round that went as deltas; `None` before a later round.
    pub fn delta_share(&self) -> Option<f64> {
        let last = self.later.last()?;
        Some(last.delta.0 as f64 / last.pages.0 as f64)
    }
}

/// The weighted median; infinite without values.
fn median(values: impl Iterator<Item = (f64, f64)>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let half = values.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut sum = 0.0;
    let middle = values.into_iter().find(|(_, weight)| {
        sum += weight;
        sum >= half
    });
    middle.map_or(f64::INFINITY, |(value, _)| value)
}

/// Bytes of a raw page with its part of the headers of a frame and of a run.
const WHOLE: f64 = PAGE_BYTES as f64 + 24.0;

#[cfg(test)]
mod tests;
