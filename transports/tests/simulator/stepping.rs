//! Steps everybody, in an order that the seed decides, until both sides are done.

use std::time::Duration;

use pagelift_engine::migration::{Failure, Report, Source};
use pagelift_engine::pipeline::{Shared, SourceSession, Step};
use pagelift_engine::units::Instant;

use super::crew::Crew;
use super::memory::Side;
use super::phases::Phases;

/// Virtual time after which a run counts as one that never ends.
const LONGEST: Duration = Duration::from_secs(700);

/// Steps after which a run counts as one that never ends.
const MOST_STEPS: u64 = 5_000_000;

/// Virtual time after which a target whose source is gone must have noticed.
const ALONE: Duration = Duration::from_secs(60);

/// How the two sides ended.
pub struct Ended {
    pub source: Option<Result<Report, Failure>>,
    pub target: Option<Result<bool, Failure>>,
    pub source_ended: Instant,
    pub target_told: bool,
}

/// Steps everybody until both sides are done, or never will be.
pub fn run(crew: &Crew, source: &Shared<Source>, source_session: &mut SourceSession<'_>) -> Ended {
    let truth = &crew.truth;
    let began = truth.now();
    let mut ended = Ended {
        source: None,
        target: None,
        source_ended: began,
        target_told: false,
    };
    let mut phases = Phases::default();
    // Not everybody gets a turn each time, but nobody is left out before all go to sleep.
    let mut all = false;
    loop {
        crew.tick();
        crew.strike_programs([ended.source.is_some(), ended.target.is_some()]);
        let source_is_there = ended.source.is_none() && crew.killed.get() != Some(Side::Source);
        let target_is_there = ended.target.is_none() && crew.killed.get() != Some(Side::Target);
        let mut wake = Instant(u64::MAX);
        let mut worked = false;
        let mut skipped = false;
        let mut idle = |step: Step| match step {
            Step::Wait(until) => {
                wake = wake.min(until);
                false
            }
            step => step != Step::Quiet,
        };
        let hangs = [Side::Source, Side::Target].map(|side| crew.hangs_until(side));
        if source_is_there && let Some(until) = hangs[0] {
            idle(Step::Wait(until));
        } else if source_is_there {
            if !all && crew.rng.borrow_mut().one_in(4) {
                skipped = true;
            } else {
                let step = crew.step_source(source_session);
                phases.saw(truth, "source", source.look(Source::phase));
                match step {
                    Ok(Step::Done) => ended.source = Some(Ok(source_session.report())),
                    Ok(step) => worked |= idle(step),
                    Err(failure) => ended.source = Some(Err(failure)),
                }
                if let Some(result) = &ended.source {
                    truth.note(|| format!("the source ends: {}", short(result)));
                    source_session.close();
                    crew.source_left(result);
                    ended.source_ended = truth.now();
                    worked = true;
                }
            }
        }
        if target_is_there && let Some(until) = hangs[1] {
            idle(Step::Wait(until));
        } else if target_is_there {
            if !crew.target.has_ended() && !all && crew.rng.borrow_mut().one_in(4) {
                skipped = true;
            } else {
                if let Some(step) = crew.step_target() {
                    worked |= idle(step);
                }
                ended.target = crew.target.take_result();
                if let Some(result) = &ended.target {
                    truth.note(|| format!("the target ends: {}", short(result)));
                    worked = true;
                }
            }
        }
        worked |= crew.accept();
        for at in 0..crew.workers() {
            if !all && crew.rng.borrow_mut().one_in(4) {
                skipped = true;
            } else {
                worked |= crew.step(at);
            }
        }
        crew.sweep();
        if !source_is_there && !target_is_there && crew.workers() == 0 {
            return ended;
        }
        if worked {
            let time = crew.rng.borrow_mut().time(Duration::from_micros(10));
            truth.clock().advance(time);
        } else if !skipped && !sleep(crew, &mut ended, wake) {
            return ended;
        }
        all = !worked && skipped;
        if truth.now().since(began) > LONGEST || crew.steps.get() > MOST_STEPS {
            let (time, steps) = (truth.now().since(began), crew.steps.get());
            truth.broken(format!("it goes on for ever: {time:?}, {steps} steps"));
            return ended;
        }
    }
}

/// Nobody has anything to do before `wake`, or before something happens. Whether it ever does.
fn sleep(crew: &Crew, ended: &mut Ended, wake: Instant) -> bool {
    let (truth, now) = (&crew.truth, crew.truth.now());
    let mut next = crew.next_event().unwrap_or(Instant(u64::MAX)).min(wake);
    let is_alone = ended.source.is_some() || crew.killed.get() == Some(Side::Source);
    let is_there = ended.target.is_none() && crew.killed.get() != Some(Side::Target);
    if is_alone && is_there && !ended.target_told {
        // Whoever started the two sides ends the one that was never spoken to.
        let told = ended.source_ended.after(ALONE);
        if now >= told {
            ended.target_told = true;
            crew.faults.borrow().cancel_target.cancel();
            next = now;
        }
        next = next.min(told.max(now));
    }
    if next == Instant(u64::MAX) {
        truth.broken("nothing will ever happen any more".into());
        return false;
    }
    truth
        .clock()
        .advance_to(next.max(now.after(Duration::from_nanos(1))));
    true
}

fn short<T>(result: &Result<T, Failure>) -> String {
    match result {
        Ok(_) => "the guest is on the target".into(),
        Err(failure) => format!("guest {}: {}", failure.guest.name(), failure.error),
    }
}
