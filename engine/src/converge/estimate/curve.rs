//! The dirty curve: how many distinct pages a guest writes in a given time.
//!
//! A page that is written twice counts once, so twice the time gives less than twice the pages:
//! between two times a factor of f apart the pages grow by a factor from 1 (a hot set that is all
//! written at once) to f (every write goes to a new page). The curve is fitted to the recent
//! harvests by local linear regression on logarithms (Cleveland 1979), around the time in question:
//! harvests of about that length count most, and a harvest counts half when it is [`HALF_LIFE`]
//! old, so the curve follows a guest that changes.
//!
//! Time is the guest's own: a round of one second in which a throttle takes 60 % of its work is
//! 0.4 s of guest time. How much a throttle takes is in
//! [`ThrottleResponse`](crate::converge::ThrottleResponse).
//!
//! The uncertainty follows from how far the harvests lie from the curve, and the nearest one from
//! the time in question. Cost: about a microsecond a reading, no allocation after set-up.

use std::time::Duration;

use crate::converge::LostWork;
use crate::units::{Instant, PageCount};

/// Harvests that are kept.
const POINTS: usize = 16;

/// Age at which a harvest counts half.
const HALF_LIFE: Duration = Duration::from_secs(4);

/// Width of the regression's kernel, in the logarithm of time: harvests of half or twice the length
/// count about 60 %.
const WIDTH: f64 = 0.7;

/// Least standard deviation of the logarithm: about 10 %.
const LEAST_SIGMA: f64 = 0.1;

/// Standard deviation added for each doubling between the time in question and the nearest harvest.
const SIGMA_PER_DOUBLING: f64 = 0.12;

/// Standard deviation of the logarithm while fewer than three harvests are known: about a factor of
/// 1.6.
const FIRST_SIGMA: f64 = 0.5;

/// Harvests are compared whose guests lost parts of their work at most this far apart.
const ALIKE: f64 = 0.35;

/// Weight of the assumption that every write goes to a new page, relative to a fresh harvest of the
/// length in question.
const PRIOR: f64 = 0.02;

/// A harvest.
#[derive(Clone, Copy, Debug)]
struct Point {
    at: Instant,
    lost: LostWork,
    ln_seconds: f64,
    ln_pages: f64,
}

/// Distinct pages written against time, from the harvests of a guest.
#[derive(Clone, Debug, Default)]
pub struct DirtyCurve {
    points: Vec<Point>,
}

/// The curve at one point.
#[derive(Clone, Copy, Debug)]
struct Reading {
    ln_pages: f64,
    sigma: f64,
}

impl DirtyCurve {
    /// The guest, of whose work the part `lost` was lost, wrote `pages` distinct pages in the
    /// `time` up to `now`.
    pub fn harvested(&mut self, now: Instant, time: Duration, lost: LostWork, pages: PageCount) {
        let guest_time = lost.guest_time(time);
        if guest_time.is_zero() {
            return;
        }
        if self.points.len() == POINTS {
            self.points.remove(0);
        }
        // The logarithm needs a page, so none counts as half of one.
        let pages = (pages.0 as f64).max(0.5);
        let ln_seconds = guest_time.as_secs_f64().ln();
        self.points.push(Point {
            at: now,
            lost,
            ln_seconds,
            ln_pages: pages.ln(),
        });
    }

    /// Distinct pages written in `time` by a guest that loses the part `lost` of its work; `None` before
    /// the first harvest.
    pub fn pages_in(&self, time: Duration, lost: LostWork) -> Option<f64> {
        let guest_time = lost.guest_time(time);
        if guest_time.is_zero() && !self.points.is_empty() {
            return Some(0.0);
        }
        let reading = self.read(guest_time.as_secs_f64().ln(), lost)?;
        Some(reading.ln_pages.exp())
    }

    /// The factor by which the truth may lie above or below [`pages_in`](Self::pages_in), at
    /// `deviations` standard deviations; from 1, infinite before the first harvest.
    pub fn factor(&self, time: Duration, lost: LostWork, deviations: f64) -> f64 {
        let guest_time = lost.guest_time(time).max(Duration::from_micros(1));
        let reading = self.read(guest_time.as_secs_f64().ln(), lost);
        reading.map_or(f64::INFINITY, |reading| (reading.sigma * deviations).exp())
    }

    /// Fits a line to the harvests around `ln_seconds`, of those under about the same throttle: a
    /// guest that hardly runs does less than its share of time says, since its housekeeping comes
    /// first.
    fn read(&self, ln_seconds: f64, lost: LostWork) -> Option<Reading> {
        let newest = self.points.last()?.at;
        let alike = |point: &&Point| (point.lost.as_fraction() - lost.as_fraction()).abs() <= ALIKE;
        let any_alike = self.points.iter().any(|point| alike(&point));
        let points = || {
            self.points
                .iter()
                .filter(move |point| !any_alike || alike(point))
        };
        let nearest = points()
            .map(|point| (point.ln_seconds - ln_seconds).abs())
            .fold(f64::INFINITY, f64::min);
        let weight = |point: &Point| {
            let half_lives = newest.since(point.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
            // Relative to the nearest one: far from all harvests, those at the edge count.
            let off = ((point.ln_seconds - ln_seconds).abs() - nearest) / WIDTH;
            0.5f64.powf(half_lives) * (-0.5 * off * off).exp()
        };
        let sum = |value: &dyn Fn(&Point) -> f64| {
            points()
                .map(|point| weight(point) * value(point))
                .sum::<f64>()
        };
        let total = sum(&|_| 1.0);
        let mean_x = sum(&|point| point.ln_seconds) / total;
        let mean_y = sum(&|point| point.ln_pages) / total;
        let spread = sum(&|point| (point.ln_seconds - mean_x).powi(2)) / total;
        let together =
            sum(&|point| (point.ln_seconds - mean_x) * (point.ln_pages - mean_y)) / total;
        // Without harvests of different lengths nothing is known of the slope but that it is at
        // most 1.
        let slope = ((together + PRIOR) / (spread + PRIOR)).clamp(0.0, 1.0);
        let at = |ln_seconds: f64| mean_y + slope * (ln_seconds - mean_x);
        let variance = sum(&|point| (point.ln_pages - at(point.ln_seconds)).powi(2)) / total;
        let least = if self.points.len() < 3 {
            FIRST_SIGMA
        } else {
            LEAST_SIGMA
        };
        let far = SIGMA_PER_DOUBLING * nearest / std::f64::consts::LN_2;
        Some(Reading {
            ln_pages: at(ln_seconds),
            sigma: variance.sqrt().max(least) + far,
        })
    }
}

#[cfg(test)]
pub(in crate::converge) mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Of a guest that writes `per_s` new pages in every second of up to two.
    pub(in crate::converge) fn steady(per_s: u64) -> DirtyCurve {
        let mut curve = DirtyCurve::default();
        for n in 1..5 {
            let pages = PageCount(per_s * 2 / n);
            curve.harvested(
                Instant(0).after(ms(2000 / n)),
                ms(2000 / n),
                LostWork::NONE,
                pages,
            );
        }
        curve
    }

    /// Distinct pages of `set` pages that uniform writes at `writes_per_s` touch in `time`.
    fn uniform(set: f64, writes_per_s: f64, time: Duration) -> PageCount {
        PageCount((set * (1.0 - (-writes_per_s * time.as_secs_f64() / set).exp())) as u64)
    }

    fn curve(of: impl Fn(Duration) -> PageCount, lengths_ms: &[u64]) -> DirtyCurve {
        let mut curve = DirtyCurve::default();
        let mut now = Instant(0);
        for length in lengths_ms {
            now = now.after(ms(*length));
            curve.harvested(now, ms(*length), LostWork::NONE, of(ms(*length)));
        }
        curve
    }

    #[test]
    fn a_linear_guest_is_extrapolated_exactly() {
        let curve = curve(
            |time| PageCount(time.as_millis() as u64 * 10),
            &[1000, 500, 100],
        );
        let pages = curve.pages_in(ms(20), LostWork::NONE).unwrap();
        assert!((pages - 200.0).abs() < 1.0, "{pages}");
    }

    #[test]
    fn a_hot_set_is_known_not_to_shrink() {
        // 1000 pages, all written within 50 ms.
        let of = |time| uniform(1000.0, 100_000.0, time);
        let curve = curve(of, &[2000, 800, 300, 100]);
        let (guess, truth) = (
            curve.pages_in(ms(50), LostWork::NONE).unwrap(),
            of(ms(50)).0 as f64,
        );
        assert!((guess / truth - 1.0).abs() < 0.15, "{guess} of {truth}");
    }

    #[test]
    fn the_truth_lies_within_two_deviations_over_the_range_that_matters() {
        for (set, rate) in [
            (200_000.0, 50_000.0),
            (20_000.0, 50_000.0),
            (2_000.0, 50_000.0),
        ] {
            let of = |time| uniform(set, rate, time);
            let curve = curve(of, &[4000, 2000, 900, 400, 150, 60]);
            for length in [30, 60, 200, 1000, 4000] {
                let (guess, truth) = (
                    curve.pages_in(ms(length), LostWork::NONE).unwrap(),
                    of(ms(length)).0 as f64,
                );
                let factor = curve.factor(ms(length), LostWork::NONE, 2.0);
                assert!(
                    truth <= guess * factor && truth >= guess / factor,
                    "{set} {length} ms: {guess} against {truth}, factor {factor}"
                );
            }
        }
    }

    #[test]
    fn a_guest_that_calms_down_is_followed() {
        let mut curve = curve(
            |time| PageCount(time.as_millis() as u64 * 100),
            &[1000, 900, 800],
        );
        let mut now = Instant(0).after(ms(2700));
        for _ in 0..10 {
            now = now.after(ms(1000));
            curve.harvested(now, ms(1000), LostWork::NONE, PageCount(1000));
        }
        let pages = curve.pages_in(ms(1000), LostWork::NONE).unwrap();
        assert!(pages < 1600.0, "{pages}");
    }

    #[test]
    fn what_a_throttled_guest_does_says_little_of_a_free_one() {
        let mut curve = curve(
            |time| PageCount(time.as_millis() as u64 * 50),
            &[1000, 500, 400],
        );
        // Throttled by 95 % it does not get 5 % of its work done, but nothing.
        let now = Instant(0).after(ms(3000));
        curve.harvested(now, ms(1000), LostWork::part(0.95), PageCount(3));
        let free = curve.pages_in(ms(50), LostWork::NONE).unwrap();
        assert!((free - 2500.0).abs() < 250.0, "{free}");
        let throttled = curve.pages_in(ms(1000), LostWork::part(0.9)).unwrap();
        assert!(throttled < 50.0, "{throttled}");
    }

    #[test]
    fn nothing_is_claimed_before_the_first_harvest() {
        let curve = DirtyCurve::default();
        assert_eq!(curve.pages_in(ms(1), LostWork::NONE), None);
        assert_eq!(curve.factor(ms(1), LostWork::NONE, 1.0), f64::INFINITY);
    }
}
