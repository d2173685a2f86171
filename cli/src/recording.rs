//! Recording of a migration for `--report`: the decisions of its policy, and what was
//! left and sent between them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pagelift_engine::converge::Record;
use pagelift_engine::migration::SourceStatus;
use pagelift_engine::units::PageCount;

use crate::plot::Timeline;

/// Most samples that are kept; of more, every second one.
const SAMPLES: usize = 4096;

/// A window of this length at least is measured for a rate.
const WINDOW_S: f64 = 0.2;

/// Windows of a migration, at most.
const WINDOWS: f64 = 150.0;

/// A recording under way. Clones are of the same one.
#[derive(Clone, Debug, Default)]
pub struct Recording(Arc<Mutex<Recorded>>);

/// A recording.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Pages of the first round.
    first_pages: PageCount,
    /// The decisions, in order.
    pub records: Vec<Record>,
    /// When the migration began, by the first decision.
    began: Option<Instant>,
    samples: Vec<Sample>,
    /// Least time from one sample to the next.
    pause: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    left_bytes: u64,
    sent_bytes: u64,
    limit: Duration,
}

impl Recording {
    /// The first round has `pages` pages.
    pub fn starts_with(&self, pages: PageCount) {
        self.with(|recorded| recorded.first_pages = pages);
    }

    /// The policy has made a decision.
    pub fn decided(&self, record: &Record) {
        let now = Instant::now();
        self.with(|recorded| {
            recorded.began = recorded
                .began
                .or_else(|| now.checked_sub(record.seen.elapsed));
            recorded.records.push(record.clone());
        });
    }

    /// The migration is where `status` says.
    pub fn saw(&self, status: &SourceStatus) {
        if status.round > 0 {
            let sample = Sample {
                at: Instant::now(),
                left_bytes: status.left.bytes().0,
                sent_bytes: status.sent.0,
                limit: status.limit,
            };
            self.with(|recorded| recorded.sample(sample));
        }
    }

    /// What was recorded so far.
    pub fn recorded(&self) -> Recorded {
        self.with(|recorded| recorded.clone())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Recorded) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Recorded {
    fn sample(&mut self, sample: Sample) {
        let early = |last: &Sample| sample.at - last.at < self.pause;
        if self.samples.last().is_some_and(early) {
            return;
        }
        self.samples.push(sample);
        if self.samples.len() >= SAMPLES {
            let mut odd = false;
            self.samples.retain(|_| {
                odd = !odd;
                odd
            });
            self.pause = (self.pause * 2).max(Duration::from_millis(20));
        }
    }

    /// The migration over time, which ended after `end` seconds.
    pub fn timeline(&self, end: f64) -> Timeline {
        let mut timeline = Timeline::of(self.first_pages, &self.records);
        timeline.end = timeline.end.max(end);
        let Some(began) = self
            .began
            .or_else(|| self.samples.first().map(|sample| sample.at))
        else {
            return timeline;
        };
        let at = |sample: &Sample| sample.at.saturating_duration_since(began).as_secs_f64();
        let left = self.samples.iter();
        timeline
            .left
            .extend(left.map(|sample| (at(sample), sample.left_bytes as f64)));
        timeline.left.sort_by(|a, b| a.0.total_cmp(&b.0));
        let window = (end / WINDOWS).max(WINDOW_S);
        let mut sent: Vec<(f64, f64)> = Vec::new();
        let mut from = (0.0, 0.0);
        for sample in &self.samples {
            let (now, bytes) = (at(sample), sample.sent_bytes as f64);
            if now - from.0 >= window {
                sent.push((from.0, (bytes - from.1) / (now - from.0)));
                from = (now, bytes);
            }
        }
        // What a short migration sent is better told by its rounds.
        if sent.len() >= 4 {
            timeline.link = sent;
        }
        let mut limits: Vec<(f64, f64)> = Vec::new();
        for sample in &self.samples {
            let limit = sample.limit.as_secs_f64();
            if limits.last().is_none_or(|(_, last)| *last != limit) {
                limits.push((if limits.is_empty() { 0.0 } else { at(sample) }, limit));
            }
        }
        if !limits.is_empty() {
            timeline.limit = limits;
        }
        timeline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(began: Instant, ms: u64) -> Sample {
        Sample {
            at: began + Duration::from_millis(ms),
            left_bytes: 1000 - ms.min(1000),
            sent_bytes: 100 * ms,
            limit: Duration::from_millis(if ms < 500 { 50 } else { 100 }),
        }
    }

    #[test]
    fn samples_make_the_line_finer_and_show_a_limit_that_grows() {
        let began = Instant::now();
        let mut recorded = Recorded::default();
        for ms in (0..1000).step_by(10) {
            recorded.sample(sample(began, ms));
        }
        let timeline = recorded.timeline(1.0);
        assert_eq!(timeline.end, 1.0);
        assert_eq!(timeline.limit, [(0.0, 0.05), (0.5, 0.1)]);
        assert!(timeline.left.len() > 90 && timeline.left.is_sorted_by(|a, b| a.0 <= b.0));
        assert_eq!(timeline.link.len(), 4);
        assert!(
            timeline
                .link
                .iter()
                .all(|(_, rate)| (*rate - 1e5).abs() < 1.0)
        );
    }

    #[test]
    fn a_long_migration_keeps_a_bounded_number_of_samples() {
        let began = Instant::now();
        let mut recorded = Recorded::default();
        for ms in 0..100_000 {
            recorded.sample(sample(began, 10 * ms));
        }
        assert!(
            recorded.samples.len() < SAMPLES,
            "{}",
            recorded.samples.len()
        );
        let covers = recorded.samples.last().unwrap().at - began;
        assert!(covers > Duration::from_secs(990), "{covers:?}");
    }
}
