//! Timeline of a migration, as it is drawn: values over time, in seconds, bytes and bytes per second.

use pagelift_engine::converge::{Decision, DowntimeForecast, Record};
use pagelift_engine::units::{PageCount, Rate};

/// A migration over time. Points are in order of time; a rate, the throttle and the limit hold
/// until the next point.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// When it ended.
    pub end: f64,
    /// When rounds ended.
    pub rounds: Vec<f64>,
    /// When the guest was stopped for good.
    pub stopped: Option<f64>,
    /// Bytes that were left to send.
    pub left: Vec<(f64, f64)>,
    /// Rate of the link.
    pub link: Vec<(f64, f64)>,
    /// Rate at which the guest wrote distinct pages.
    pub written: Vec<(f64, f64)>,
    /// Share of its time that the guest was kept from running.
    pub throttle: Vec<(f64, f64)>,
    /// The downtime if the guest had been stopped then.
    pub downtime: Vec<ForecastPoint>,
    /// The downtime that was allowed, in seconds.
    pub limit: Vec<(f64, f64)>,
}

/// A forecast of the downtime, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForecastPoint {
    /// When it was made.
    pub at: f64,
    /// The lower end of its interval.
    pub low: f64,
    /// What was likely.
    pub likely: f64,
    /// The upper end.
    pub high: f64,
}

impl Timeline {
    /// The migration that `records` tell of, whose first round had `first` pages to send.
    pub fn of(first: PageCount, records: &[Record]) -> Self {
        let mut timeline = Self {
            left: vec![(0.0, bytes(first))],
            throttle: vec![(0.0, 0.0)],
            ..Self::default()
        };
        for record in records {
            timeline.add(record);
        }
        timeline
    }

    fn add(&mut self, record: &Record) {
        let seen = &record.seen;
        let at = seen.elapsed.as_secs_f64();
        if let Some(limits) = &record.limits {
            let from = if self.limit.is_empty() { 0.0 } else { at };
            self.limit
                .push((from, limits.downtime.least().as_secs_f64()));
        }
        if seen.round_ended {
            let began = self.rounds.last().copied().unwrap_or_default();
            let rate = |rate: Option<Rate>| rate.map(|rate| (began, rate.0 as f64));
            self.link.extend(rate(seen.link));
            self.written.extend(rate(seen.dirty));
            // All but what was held back had been sent when the round ended.
            self.left.push((at, bytes(seen.held.min(seen.left))));
            self.rounds.push(at);
            self.downtime.extend(forecast(record));
        }
        self.left.push((at, bytes(seen.left)));
        match record.decision {
            Decision::Throttle(share) => self.throttle.push((at, share.as_fraction())),
            Decision::Stop | Decision::Force => self.stopped = Some(at),
            Decision::Continue | Decision::GiveUp(_) => {}
        }
        self.end = self.end.max(at);
    }
}

fn bytes(pages: PageCount) -> f64 {
    pages.bytes().0 as f64
}

fn forecast(record: &Record) -> Option<ForecastPoint> {
    let total = DowntimeForecast::of(&record.seen)?.total();
    Some(ForecastPoint {
        at: record.seen.elapsed.as_secs_f64(),
        low: total.low().as_secs_f64(),
        likely: total.likely().as_secs_f64(),
        high: total.high().as_secs_f64(),
    })
}
