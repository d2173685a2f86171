//! What a page costs that is sent again: time until it is acknowledged, and bytes on the wire.
//!
//! The first round reads, frames and places memory in long runs. Pages that were written since lie
//! scattered: each costs system calls on both sides, and often goes as a delta. The downtime's
//! pages are of that kind, so the later rounds are what it is forecast by: for each the time from
//! its beginning until all of it was acknowledged, less one round trip, over its pages. Rounds of
//! about as many pages as are left count most, and old ones less.
//!
//! The weighted median of the rounds counts, since a round can be held up by other work.
//!
//! Before there is a later round, the link's rate and a guess for scattered pages must do
//! ([`SCATTERED`]), with an uncertainty that makes another round worth while.

use std::time::Duration;

use super::LinkRate;
use crate::units::{ByteCount, PAGE_BYTES, PageCount};

/// Rounds that are kept, after the first.
const ROUNDS: usize = 8;

/// Weight of a round against the one after it.
const AGEING: f64 = 0.7;

/// Rounds of half or twice as many pages count about 85 %.
const WIDTH: f64 = 1.2;

/// Seconds for one scattered page, before one was seen: reading and placing it are a system call
/// each, of about 1 us, and its share of a frame is checked twice.
const SCATTERED: f64 = 4e-6;

/// Standard deviation of the logarithm while [`SCATTERED`] decides: about a factor of two.
const GUESS_SIGMA: f64 = 0.6;

/// The same while the link's rate decides, or a single round is known.
const ONE_SIGMA: f64 = 0.3;

/// The same at least.
const LEAST_SIGMA: f64 = 0.1;

/// Added for each factor of e between the pages that are left and those of the nearest round.
const FAR_SIGMA: f64 = 0.08;

/// A round's page counts as at most this much off, as a logarithm: one that was held up once says
/// nothing of the spread.
const MOST_OFF: f64 = 1.0;

/// Pages of a round that says something of a page's cost; in less, the round trip decides.
const LEAST_PAGES: f64 = 32.0;

/// A round, all of it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundSent {
    /// Its pages, those included that turned out to be unchanged.
    pub pages: PageCount,
    /// Those of them that held only zeros.
    pub zero: PageCount,
    /// Those of them that went as deltas, or not at all since they were unchanged.
    pub delta: PageCount,
    /// Its bytes on the wire.
    pub bytes: ByteCount,
    /// From its first page to its last acknowledgement; what was under way before it not counted.
    pub time: Duration,
}

/// Time that a page takes, until it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PageTime {
    /// In seconds.
    pub seconds: f64,
    /// Standard deviation of its logarithm.
    pub sigma: f64,
}

/// What the rounds of a migration say.
#[derive(Clone, Debug, Default)]
pub struct PageCosts {
    first: Option<RoundSent>,
    later: Vec<RoundSent>,
}

impl PageCosts {
    /// A round is at the target.
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

    /// The link has changed: only what a page of the last round weighed is still known.
    pub fn forget_times(&mut self) {
        self.first = self.later.pop().or(self.first);
        self.later.clear();
    }

    /// Later rounds, each with its weight for `left` pages.
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

    /// Time of one of `left` pages, on a link of such a rate and round trip; `None` if nothing
    /// was ever acknowledged.
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
        // In a round of few pages the round trip is nearly all.
        let page = |round: &RoundSent| {
            let net = round.time.saturating_sub(trip).max(round.time / 4);
            (net.as_secs_f64() / round.pages.0 as f64).max(1e-9)
        };
        let rounds = self.weighted(left);
        let seconds = median(rounds.map(|(round, weight)| {
            // A delay weighs less in a long round.
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

    /// Bytes on the wire of one of `left` pages.
    pub fn bytes(&self, left: PageCount) -> f64 {
        let (mut bytes, mut pages) = (0.0, 0.0);
        for (round, weight) in self.weighted(left.0 as f64) {
            bytes += weight * round.bytes.0 as f64;
            pages += weight * round.pages.0 as f64;
        }
        if pages > 0.0 {
            return bytes / pages;
        }
        // A page that was written is seldom zero: those of the first round say nothing of it.
        let whole = |round: &RoundSent| {
            let filled = round.pages.0 - round.zero.0;
            (filled > 0).then(|| (round.bytes.0 as f64 / filled as f64).min(WHOLE))
        };
        self.first.as_ref().and_then(whole).unwrap_or(WHOLE)
    }

    /// Share of the pages of the last round that went as deltas; `None` before a later round.
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

/// A raw page and its share of the headers of a frame and of a run.
const WHOLE: f64 = PAGE_BYTES as f64 + 24.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Instant;

    const TRIP: Duration = Duration::from_millis(1);

    /// A tenth of the rate that it had: neither the old time of a page counts, nor is it
    /// forgotten that pages go as deltas.
    #[test]
    fn on_another_link_the_link_decides_until_there_is_a_round() {
        let mut costs = PageCosts::default();
        for _ in 0..3 {
            costs.round(RoundSent {
                bytes: ByteCount(100_000),
                ..round(1000, 1)
            });
        }
        costs.forget_times();
        let left = PageCount(1000);
        assert_eq!(costs.bytes(left), 100.0);
        let mut link = LinkRate::default();
        link.begin(Instant(0));
        link.placed(Instant(1_000_000_000), ByteCount(1_000_000));
        let page = costs.time(left, &link, TRIP).unwrap();
        assert!((page.seconds - 100e-6).abs() < 1e-9, "{page:?}");
        assert!(page.sigma >= ONE_SIGMA, "{page:?}");
        costs.round(round(1000, 20));
        let page = costs.time(left, &link, TRIP).unwrap();
        assert!(page.seconds < 50e-6, "{page:?}");
    }

    fn round(raw: u64, page_us: u64) -> RoundSent {
        RoundSent {
            pages: PageCount(raw),
            zero: PageCount(0),
            delta: PageCount(0),
            bytes: ByteCount(raw * 4100),
            time: TRIP + Duration::from_micros(raw * page_us),
        }
    }

    /// A link of so many bytes a second.
    fn link(rate: u64) -> LinkRate {
        let mut link = LinkRate::default();
        link.begin(Instant(0));
        link.placed(Instant(1_000_000_000), ByteCount(rate));
        link
    }

    fn fast() -> LinkRate {
        link(4_100_000_000)
    }

    #[test]
    fn later_rounds_are_believed_and_the_first_is_not() {
        let mut costs = PageCosts::default();
        assert_eq!(costs.time(PageCount(100), &LinkRate::default(), TRIP), None);
        costs.round(round(100_000, 1));
        let guess = costs.time(PageCount(1000), &fast(), TRIP).unwrap();
        assert_eq!((guess.seconds, guess.sigma), (SCATTERED, GUESS_SIGMA));
        costs.round(round(2000, 7));
        let one = costs.time(PageCount(2000), &fast(), TRIP).unwrap();
        assert!((one.seconds - 7e-6).abs() < 1e-8, "{one:?}");
        assert!(one.sigma < guess.sigma);
        costs.round(round(1800, 7));
        costs.round(round(1500, 8));
        let three = costs.time(PageCount(1500), &fast(), TRIP).unwrap();
        assert!((7e-6..8e-6).contains(&three.seconds), "{three:?}");
        assert!(three.sigma < one.sigma, "{three:?}");
        let far = costs.time(PageCount(50), &fast(), TRIP).unwrap();
        assert!(far.sigma > three.sigma, "{far:?}");
    }

    #[test]
    fn a_round_that_was_held_up_decides_neither_the_time_nor_its_spread() {
        let mut costs = PageCosts::default();
        for page_us in [1, 7, 7, 400, 7, 8] {
            costs.round(round(100, page_us));
        }
        // And one that came back sooner than a ping.
        costs.round(RoundSent {
            time: TRIP / 2,
            ..round(40, 1)
        });
        let time = costs.time(PageCount(100), &fast(), TRIP).unwrap();
        assert!((7e-6..9e-6).contains(&time.seconds), "{time:?}");
        assert!(time.sigma < 0.8, "{time:?}");
    }

    #[test]
    fn a_slow_link_is_more_certain_than_a_guess() {
        let mut costs = PageCosts::default();
        costs.round(round(1000, 40));
        let slow = costs.time(PageCount(10), &link(100_000_000), TRIP).unwrap();
        assert!((ONE_SIGMA..GUESS_SIGMA).contains(&slow.sigma), "{slow:?}");
        assert!((slow.seconds - 41e-6).abs() < 1e-6, "{slow:?}");
    }

    #[test]
    fn bytes_are_those_of_pages_that_come_again() {
        let mut costs = PageCosts::default();
        costs.round(RoundSent {
            pages: PageCount(10_000),
            zero: PageCount(9000),
            bytes: ByteCount(4_110_000),
            ..round(0, 0)
        });
        assert!((costs.bytes(PageCount(1)) - 4110.0).abs() < 10.0);
        assert_eq!(costs.delta_share(), None);
        costs.round(RoundSent {
            pages: PageCount(1000),
            delta: PageCount(900),
            bytes: ByteCount(500_000),
            ..round(0, 0)
        });
        assert!((costs.bytes(PageCount(1)) - 500.0).abs() < 1.0);
        assert_eq!(costs.delta_share(), Some(0.9));
    }

    #[test]
    fn rounds_of_nothing_say_nothing() {
        let mut costs = PageCosts::default();
        costs.round(round(1000, 1));
        for _ in 0..20 {
            costs.round(round(0, 0));
        }
        costs.round(round(3, 1));
        let guess = costs.time(PageCount(3), &fast(), TRIP).unwrap();
        assert_eq!(guess.sigma, GUESS_SIGMA);
    }
}
