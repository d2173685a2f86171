//! What a user writes: lines on the control socket, and traces.

use pagelift::plot::{self, Timeline};
use pagelift_control::job::json;
use pagelift_control::socket::ControlRequest;
use pagelift_engine::converge::{Limited, Limits, PolicyKind, Recorded, Trace, replay};
use pagelift_engine::pipeline::Settings;
use std::time::Duration;

/// Time after which replays of made-up traces give up.
const DEADLINE: Duration = Duration::from_secs(2);

/// A line on the control socket: what is accepted can be made, and told.
pub fn control_request(data: &[u8]) {
    match ControlRequest::parse(data) {
        Ok(ControlRequest::Set(changes)) => {
            assert!(!changes.is_empty(), "nothing to set is an error");
            let mut settings = Settings::default();
            for change in &changes {
                change.make(&mut settings).expect("it was tried");
            }
            let told = json::settings(&settings).to_string();
            assert!(told.starts_with('{'), "{told}");
            run(&settings.limits);
        }
        Ok(ControlRequest::Status | ControlRequest::Cancel) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A policy under `limits`, over a guest that needs some rounds.
fn run(limits: &Limits) {
    let line = |us: u64| {
        format!(
            "now_us={us} elapsed_us={us} round=1 ended=1 left=5000 in_flight=0 page_bytes=4096 \
             link=100000000 dirty=90000000 fixed_us=1000 harvested=5000 interval_us=200000 \
             throttled=0 placed=0 decision=continue\n"
        )
    };
    let text = format!("pagelift-trace 1 pages=50000\n{}", line(2_000_000));
    let trace = Trace::parse(&text).expect("a trace");
    let mut model = Recorded::new(trace).expect("it has a round");
    replay(&mut model, &mut bounded(*limits));
}

/// A policy under `limits` that soon gives up.
fn bounded(limits: Limits) -> Limited {
    Limited::new(Limits {
        deadline: limits
            .deadline
            .map_or(Some(DEADLINE), |deadline| Some(deadline.min(DEADLINE))),
        at_deadline: Limits::default().at_deadline,
        ..limits
    })
}

/// A trace: what is accepted is the same after being written and read again, can be run under
/// every policy, and drawn.
pub fn trace(data: &[u8]) {
    let Ok(trace) = Trace::parse(&String::from_utf8_lossy(data)) else {
        return;
    };
    let again = Trace::parse(&trace.to_string()).expect("what was written must be read");
    assert_eq!(again.first_pages, trace.first_pages);
    assert_eq!(again.records.len(), trace.records.len());
    for (again, record) in again.records.iter().zip(&trace.records) {
        assert_eq!(again.limits, record.limits);
        assert_eq!(again.seen.left, record.seen.left);
    }
    draw(&trace);
    let Some(model) = Recorded::new(trace) else {
        return;
    };
    for policy in PolicyKind::ALL {
        let limits = Limits {
            policy,
            ..Limits::default()
        };
        let run = replay(&mut model.clone().without_limits(), &mut bounded(limits));
        assert!(run.lost_work_s.is_finite(), "{run:?}");
        draw(&Trace {
            first_pages: again.first_pages,
            records: run.records,
        });
    }
}

fn draw(trace: &Trace) {
    let timeline = Timeline::of(trace.first_pages, &trace.records);
    let picture = plot::svg(&timeline, None);
    assert!(picture.ends_with("</svg>\n"));
    for word in ["NaN", "inf"] {
        assert!(!picture.contains(word), "{picture}");
    }
}
