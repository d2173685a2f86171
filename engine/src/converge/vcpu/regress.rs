//! Which vCPU writes how many pages per second of its processor time.
//!
//! **Counted:** where the embedder knows who wrote each page (a KVM dirty ring belongs to one
//! vCPU), the answer is a quotient, with the uncertainty of counting.
//!
//! **Sampled:** otherwise all that can be seen are pages of the whole guest and the processor
//! time of each vCPU, interval after interval: `pages = sum of cost * time`. The costs are the
//! posterior of a Bayesian linear regression: the prior says that all vCPUs are alike, give or
//! take [`SPREAD`] times their mean, so that an answer exists from the first sample on and its
//! covariance says how much of it is knowledge. Intervals that fell apart by more than their
//! noise explains count as a worse model, and widen the covariance. Costs are never negative.
//!
//! What is [`HALF_LIFE`] old counts half: the guest's scheduler moves its work about.
//!
//! Not here: how pages that were marked before the interval are allowed for; the caller gives
//! pages as if the interval had begun with no page marked.
//!
//! Units: pages, seconds of processor time, pages per second. Cost: n^2 per sample, n^3 per
//! [`Costs`], below 100 us with 64 vCPUs; nothing for counts.

use std::time::Duration;

use super::matrix::{Cholesky, Matrix};
use crate::units::Instant;

/// Most vCPUs that samples are attributed to: with more there are more unknowns than samples in
/// a [`HALF_LIFE`]. Counts have no such limit.
pub(super) const SAMPLED_MOST: usize = 64;

/// Age at which a sample counts half.
const HALF_LIFE: Duration = Duration::from_secs(3);

/// Standard deviation of a cost around the mean of all, before anything is known, in units of
/// that mean; or half the number of vCPUs, if that is more: one may write for all of them.
const SPREAD: f64 = 2.0;

/// Relative standard deviation of the pages of one interval: intervals of 100 ms on a busy host
/// fall apart by about this.
const NOISE: f64 = 0.1;

/// An interval that is this many standard deviations off says that the guest has changed: what
/// was known counts a sixteenth then.
const CHANGED: f64 = 4.0;

/// Standard deviation of pages that no vCPU's time explains: devices, and the kernel on their
/// behalf.
const STRAY_PAGES: f64 = 4.0;

/// What is known of each vCPU.
#[derive(Clone, Debug)]
pub(super) struct Costs {
    /// Pages per second of processor time.
    pub(super) mean: Vec<f64>,
    certainty: Certainty,
}

#[derive(Clone, Debug)]
enum Certainty {
    /// Independent variances.
    Counted(Vec<f64>),
    /// The factor of the inverse covariance, and what its square must be multiplied by.
    Sampled(Cholesky, f64),
}

impl Costs {
    /// What each vCPU costs, and the standard deviation of that.
    pub(super) fn each(&self) -> impl Iterator<Item = (f64, f64)> {
        let mut alone = vec![0.0; self.mean.len()];
        self.mean.iter().enumerate().map(move |(vcpu, &cost)| {
            alone[vcpu] = 1.0;
            let sigma = self.sigma(&alone);
            alone[vcpu] = 0.0;
            (cost, sigma)
        })
    }

    /// Standard deviation of the pages that are written when each vCPU runs for its part of
    /// `seconds`.
    pub(super) fn sigma(&self, seconds: &[f64]) -> f64 {
        let variance = match &self.certainty {
            Certainty::Counted(of) => of.iter().zip(seconds).map(|(v, s)| v * s * s).sum(),
            Certainty::Sampled(factor, misfit) => factor.inverse_form(seconds) * misfit,
        };
        f64::sqrt(variance)
    }
}

/// The samples, forgetting.
#[derive(Clone, Debug)]
pub(super) struct Regression {
    /// Sum of time * time^T / variance, and of time * pages / variance.
    a: Matrix,
    b: Vec<f64>,
    /// Pages and processor time of all.
    pages: f64,
    seconds: f64,
    /// Sums of squared deviations in units of their variance, and of samples.
    misfit: f64,
    samples: f64,
    /// Pages and processor time per vCPU, of counts.
    counted: Vec<(f64, f64)>,
    /// The last answer, from which the next one is sought.
    mean: Vec<f64>,
    last: Option<Instant>,
}

impl Regression {
    /// Nothing known of `vcpus` vCPUs.
    pub(super) fn new(vcpus: usize) -> Self {
        let sampled = if vcpus <= SAMPLED_MOST { vcpus } else { 0 };
        Self {
            a: Matrix::zeros(sampled),
            b: vec![0.0; sampled],
            pages: 0.0,
            seconds: 0.0,
            misfit: 0.0,
            samples: 0.0,
            counted: Vec::new(),
            mean: vec![0.0; sampled],
            last: None,
        }
    }

    /// In an interval up to `now` the vCPUs ran for `seconds` each and wrote `pages` together,
    /// of which the `seen`th part (above 0, up to 1) was seen and the rest inferred.
    pub(super) fn sampled(&mut self, now: Instant, seconds: &[f64], pages: f64, seen: f64) {
        if seconds.len() != self.b.len() {
            return;
        }
        self.age(now);
        let expected: f64 = self.mean.iter().zip(seconds).map(|(a, b)| a * b).sum();
        // Both, so that neither a first sample nor one that is far off counts too much.
        let typical = if self.samples > 0.0 {
            (expected + pages) / 2.0
        } else {
            pages
        };
        let noise = NOISE * typical / seen;
        let variance = noise * noise + typical / seen + STRAY_PAGES * STRAY_PAGES;
        if let Some(costs) = self.costs() {
            let (off, doubt) = (pages - expected, costs.sigma(seconds));
            // The doubt holds the misfit of before; what counts is what it does not explain.
            let likely = variance + doubt * doubt;
            if off * off > CHANGED * CHANGED * likely {
                self.forget(4.0);
            } else {
                self.misfit += off * off / likely;
            }
        }
        self.samples += 1.0;
        self.a.add_outer(1.0 / variance, seconds);
        for (b, seconds) in self.b.iter_mut().zip(seconds) {
            *b += seconds * pages / variance;
        }
        self.pages += pages;
        self.seconds += seconds.iter().sum::<f64>();
        let prior = self.prior();
        let rhs = self.right_side(prior);
        let matrix = self.a.plus_diagonal(prior.1);
        matrix.least_squares(&rhs, &mut self.mean);
    }

    /// In an interval up to `now` each vCPU ran for its part of `seconds` and wrote its part of
    /// `pages`.
    pub(super) fn counted(&mut self, now: Instant, seconds: &[f64], pages: &[f64]) {
        self.age(now);
        self.counted.resize(seconds.len(), (0.0, 0.0));
        for ((sums, pages), seconds) in self.counted.iter_mut().zip(pages).zip(seconds) {
            sums.0 += pages;
            sums.1 += seconds;
        }
    }

    /// What it comes to; `None` before the first sample.
    pub(super) fn costs(&self) -> Option<Costs> {
        if !self.counted.is_empty() {
            // A vCPU that has not run has cost nothing so far, and nobody knows more.
            let mean = |&(pages, seconds): &(f64, f64)| pages / seconds.max(1e-6);
            let variance = |&(pages, seconds): &(f64, f64)| {
                let seconds = seconds.max(1e-6);
                (pages + 1.0 + (NOISE * pages).powi(2)) / (seconds * seconds)
            };
            return Some(Costs {
                mean: self.counted.iter().map(mean).collect(),
                certainty: Certainty::Counted(self.counted.iter().map(variance).collect()),
            });
        }
        if self.samples == 0.0 || self.b.is_empty() || self.seconds <= 0.0 {
            return None;
        }
        let matrix = self.a.plus_diagonal(self.prior().1);
        let misfit = (self.misfit / self.samples).max(1.0);
        Some(Costs {
            mean: self.mean.clone(),
            certainty: Certainty::Sampled(matrix.cholesky()?, misfit),
        })
    }

    /// Halves what is known, `times` times: it has turned out to be wrong.
    pub(super) fn forget(&mut self, times: f64) {
        self.decay(0.5f64.powf(times));
    }

    fn age(&mut self, now: Instant) {
        let age = self.last.map_or(Duration::ZERO, |last| now.since(last));
        self.last = Some(now);
        self.decay(0.5f64.powf(age.as_secs_f64() / HALF_LIFE.as_secs_f64()));
    }

    fn decay(&mut self, factor: f64) {
        self.a.scale(factor);
        let sums = [
            &mut self.pages,
            &mut self.seconds,
            &mut self.misfit,
            &mut self.samples,
        ];
        for sum in sums.into_iter().chain(&mut self.b) {
            *sum *= factor;
        }
        for (pages, seconds) in &mut self.counted {
            *pages *= factor;
            *seconds *= factor;
        }
    }

    /// Mean of the prior, and its precision.
    fn prior(&self) -> (f64, f64) {
        let mean = self.pages / self.seconds.max(1e-9);
        let spread = SPREAD.max(self.b.len() as f64 / 2.0);
        // While the one that writes is hardly let run, the mean is little of what it costs.
        let largest = self.mean.iter().copied().fold(0.0, f64::max);
        let sigma = (spread * mean).max(SPREAD * largest).max(1.0);
        (mean, 1.0 / (sigma * sigma))
    }

    fn right_side(&self, (mean, precision): (f64, f64)) -> Vec<f64> {
        self.b.iter().map(|b| b + mean * precision).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tick: u64) -> Instant {
        Instant(tick * 100_000_000)
    }

    #[test]
    fn unequal_times_tell_the_writer_from_the_others() {
        let mut regression = Regression::new(3);
        let truth = [10_000.0, 0.0, 200.0];
        for tick in 0..12u64 {
            let part = |vcpu: u64| {
                if (tick + vcpu).is_multiple_of(3) {
                    0.09
                } else {
                    0.01
                }
            };
            let seconds = [part(0), part(1), part(2)];
            let pages: f64 = truth.iter().zip(seconds).map(|(a, b)| a * b).sum();
            regression.sampled(at(tick), &seconds, pages, 1.0);
        }
        let costs = regression.costs().unwrap();
        assert!((costs.mean[0] / 10_000.0 - 1.0).abs() < 0.1, "{costs:?}");
        assert!(costs.mean[1] < 300.0, "{costs:?}");
        let alone = costs.sigma(&[0.0, 0.1, 0.0]);
        assert!(alone < 60.0, "{alone} pages of the writer's 1000");
    }

    #[test]
    fn while_all_run_alike_they_are_taken_to_be_alike() {
        let mut regression = Regression::new(4);
        for tick in 0..20 {
            regression.sampled(at(tick), &[0.1; 4], 1000.0, 1.0);
        }
        let costs = regression.costs().unwrap();
        assert!(
            costs.mean.iter().all(|cost| (cost - 2500.0).abs() < 100.0),
            "{costs:?}"
        );
        // Of all together much is known, of one alone next to nothing.
        assert!(costs.sigma(&[0.1; 4]) < 100.0);
        assert!(costs.sigma(&[0.1, 0.0, 0.0, 0.0]) > 300.0);
    }

    #[test]
    fn counts_need_no_variation() {
        let mut regression = Regression::new(200);
        let mut seconds = vec![0.0; 200];
        let mut pages = vec![0.0; 200];
        (seconds[7], pages[7]) = (0.1, 500.0);
        seconds[8] = 0.1;
        regression.counted(at(1), &seconds, &pages);
        let costs = regression.costs().unwrap();
        assert!((costs.mean[7] - 5000.0).abs() < 1.0);
        assert!(costs.mean[8].abs() < 1e-9);
        let mut alone = vec![0.0; 200];
        alone[8] = 0.1;
        assert!(costs.sigma(&alone) < 2.0);
    }

    #[test]
    fn what_changed_is_learned_and_forgotten() {
        let mut regression = Regression::new(2);
        let mut feed = |from: u64, truth: [f64; 2]| {
            for tick in from..from + 60 {
                let seconds = if tick % 2 == 0 {
                    [0.02, 0.1]
                } else {
                    [0.1, 0.02]
                };
                let pages: f64 = truth.iter().zip(seconds).map(|(a, b)| a * b).sum();
                regression.sampled(at(tick), &seconds, pages, 1.0);
            }
            regression.costs().unwrap().mean
        };
        let first = feed(0, [5000.0, 0.0]);
        assert!(first[0] > 4500.0 && first[1] < 200.0, "{first:?}");
        let then = feed(60, [0.0, 5000.0]);
        assert!(then[1] > 10.0 * then[0], "{then:?}");
    }
}
