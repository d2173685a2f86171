//! Traces that read back, and guests that are run again.

use super::fluid::Workload;
use super::replay::{Model, replay};
use super::*;
use crate::converge::{
    Ended, Limited, Policy, Predictive, PredictiveConfig, Run, StopWhenFits, StopWhenFitsConfig,
};

fn recorded() -> (Trace, Run) {
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
        Interval::exactly(Duration::from_micros(10))
    );
}

#[test]
fn numbers_that_no_migration_has_are_named() {
    let line = "now_us=1 elapsed_us=1000 round=1 ended=1 left=7 in_flight=0 page_bytes=99.5 \
                link=5 dirty=0 fixed_us=10 harvested=7 interval_us=9 throttled=0 placed=0 \
                decision=give-up";
    assert!(parse_record(2, line).is_ok());
    for (key, before, now) in [
        ("left", "left=7", "left=18446744073709551615"),
        (
            "elapsed_us",
            "elapsed_us=1000",
            "elapsed_us=99999999999999999",
        ),
        ("page_bytes", "page_bytes=99.5", "page_bytes=-1"),
        ("page_bytes", "page_bytes=99.5", "page_bytes=NaN"),
        ("link", "link=5", "link=18446744073709551615"),
    ] {
        let bad = line.replace(before, now);
        assert_eq!(
            parse_record(2, &bad),
            Err(TraceError::BadLine { line: 2, key }),
            "{bad}"
        );
    }
}

/// Its policy would be asked once a second of all that time.
#[test]
fn a_round_of_years_is_left_after_a_day() {
    let text = "pagelift-trace 1 pages=1099511627776\nnow_us=1 elapsed_us=1000 round=1 \
                ended=1 left=1099511627776 in_flight=0 page_bytes=4096 link=1 dirty=1 \
                fixed_us=10 harvested=7 interval_us=9 throttled=0 placed=0 decision=continue";
    let mut model = Recorded::new(Trace::parse(text).unwrap()).unwrap();
    let limits = Limits {
        deadline: None,
        ..Limits::default()
    };
    let mut policy = Counting(Limited::new(limits), 0);
    replay(&mut model, &mut policy);
    assert!(policy.1 <= 24 * 3600 + 1, "asked {} times", policy.1);
}

/// A policy, and how often it was asked.
#[derive(Debug)]
struct Counting(Limited, usize);

impl Policy for Counting {
    fn decide(&mut self, seen: &Observation) -> Decision {
        self.1 += 1;
        self.0.decide(seen)
    }

    fn hold_back(&self, seen: &Observation) -> PageCount {
        self.0.hold_back(seen)
    }

    fn downtime_limit(&self) -> Duration {
        self.0.downtime_limit()
    }

    fn throttle_most(&self) -> ThrottleShare {
        self.0.throttle_most()
    }

    fn set_limits(&mut self, limits: &Limits) {
        self.0.set_limits(limits);
    }
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
