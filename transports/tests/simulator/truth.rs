//! What really happens in a run, seen from outside both sides, and the rules it breaks.

mod by_hand;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::guest::Promise;
use pagelift_engine::migration::DowntimeLimit;
use pagelift_engine::pipeline::Clock;
use pagelift_engine::units::Instant;
use pagelift_transports::sim::SimClock;

use super::agents::Agent;
use super::memory::Side;
use super::plan::Plan;

/// What a step that is under way at the limit may still take.
const STANDSTILL_SLACK: Duration = Duration::from_millis(800);

/// Something that fails when asked for the n-th time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mishap {
    Arm,
    Harvest,
    Populated,
    SourceRead,
    Stop,
    SaveState,
    GiveUp,
    /// The record of the hand-over is made, and the answer is lost.
    AnswerLost,
    /// It is neither made nor answered.
    RecordLost,
    TargetWrite,
    TargetRead,
    IsLoaded,
    Run,
    /// Others have begun something on the same QEMU: a migration, a save, hotplug.
    OtherHands,
}

#[derive(Debug)]
pub struct Truth {
    clock: SimClock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    source_runs: bool,
    target_runs: bool,
    /// When the source's guest was stopped.
    stopped_at: Option<Instant>,
    downtime_limit: DowntimeLimit,
    /// The agents of source and target, if the QEMUs have them.
    agents: Option<[Agent; 2]>,
    /// By how much the source's guest is throttled, in permille.
    throttled: u16,
    gave_up: Option<Instant>,
    /// QEMU has begun to take the guest on the target; by hand it was told to start it then; it has
    /// ended.
    target_loads: bool,
    target_starts: bool,
    target_ended: bool,
    /// Until when the guest is stopped by hand.
    stopped_until: Option<Instant>,
    /// The guest's stop was ended by hand: QEMU does not commit.
    cancelled_by_hand: bool,
    /// It was settled while a program was still there, or before the end was looked at.
    settled: bool,
    /// What actors have got to.
    reached: BTreeSet<&'static str>,
    /// A person let the guest run on a target that did not know whose it was.
    let_run: bool,
    broken: Vec<String>,
    countdowns: BTreeMap<Mishap, u64>,
    happened: BTreeSet<Mishap>,
    events: Option<Vec<String>>,
}

impl Truth {
    pub fn new(clock: SimClock, keep_events: bool) -> Self {
        let state = State {
            source_runs: true,
            events: keep_events.then(Vec::new),
            ..State::default()
        };
        Self {
            clock,
            state: Mutex::new(state),
        }
    }

    /// Another attempt at moving the guest, which runs on the source.
    pub fn begin(&self, plan: &Plan) {
        let mut state = self.lock();
        state.downtime_limit = plan.downtime_limit;
        // The source's QEMU lives on; the target's is another one.
        let before = state.agents.map(|[source, _]| source.for_another_program());
        state.agents = plan
            .agents
            .then(|| [before.unwrap_or_default(), Agent::default()]);
        state.target_loads = false;
        state.target_starts = false;
        state.target_ended = false;
        state.cancelled_by_hand = false;
        state.stopped_until = None;
        state.settled = false;
        state.countdowns = plan.mishaps.iter().copied().collect();
        state.happened.clear();
    }

    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// Whether it is time for this to fail.
    pub fn strikes(&self, mishap: Mishap) -> bool {
        let mut state = self.lock();
        let Some(left) = state.countdowns.get_mut(&mishap) else {
            return false;
        };
        *left = left.saturating_sub(1);
        let strikes = *left == 0;
        if strikes {
            state.countdowns.remove(&mishap);
            state.happened.insert(mishap);
            drop(state);
            self.note(|| format!("mishap: {mishap:?}"));
        }
        strikes
    }

    pub fn happened(&self, mishap: Mishap) -> bool {
        self.lock().happened.contains(&mishap)
    }

    /// A rule is broken.
    pub fn broken(&self, rule: String) {
        self.note(|| format!("BROKEN: {rule}"));
        self.lock().broken.push(rule);
    }

    pub fn take_broken(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().broken)
    }

    /// Writes an event down, if anybody wants to read it.
    pub fn note(&self, event: impl FnOnce() -> String) {
        let now = self.now();
        let mut state = self.lock();
        if let Some(events) = &mut state.events {
            let ms = now.0 as f64 / 1e6 - 1000.0;
            events.push(format!("{ms:11.3} ms  {}", event()));
        }
    }

    pub fn take_events(&self) -> Vec<String> {
        self.lock().events.take().unwrap_or_default()
    }

    // --- who runs ------------------------------------------------------------------------

    pub fn source_runs(&self) -> bool {
        self.lock().source_runs
    }

    pub fn target_runs(&self) -> bool {
        self.lock().target_runs
    }

    pub fn gave_up(&self) -> bool {
        self.lock().gave_up.is_some()
    }

    /// Time since the source gave the guest up.
    pub fn since_gave_up(&self, until: Instant) -> Duration {
        self.lock()
            .gave_up
            .map_or(Duration::ZERO, |at| until.since(at))
    }

    pub fn source_throttled(&self, share: ThrottleShare) {
        self.note(|| format!("the guest is throttled to {share}"));
        self.lock().throttled = share.as_permille();
    }

    pub fn is_throttled(&self) -> bool {
        self.lock().throttled > 0
    }

    pub fn source_stopped(&self) {
        self.note(|| "the guest stops on the source".into());
        let now = self.now();
        let mut state = self.lock();
        state.source_runs = false;
        state.stopped_at = Some(now);
    }

    pub fn source_gave_up(&self) {
        self.note(|| "the source relinquishes the guest".into());
        self.check_standstill();
        let now = self.now();
        let mut state = self.lock();
        let runs = state.source_runs;
        state.gave_up = Some(now);
        drop(state);
        if runs {
            self.broken("the source gave up a guest that runs".into());
        }
    }

    pub fn source_resumed(&self) {
        self.note(|| "the guest goes on on the source".into());
        if !self.gave_up() {
            self.check_standstill();
        }
        let mut state = self.lock();
        state.source_runs = true;
        state.stopped_at = None;
        // A guest that was given up and not handed over may be taken back. If the target was told
        // all the same, it runs a guest that nobody has given up, and that breaks a rule.
        let (gave_up, target_ran) = (state.gave_up.take(), state.target_runs);
        drop(state);
        if self.promised(Side::Source) == Some(Promise::HandedOver) {
            self.broken("the source took back a guest that it has promised away".into());
        }
        if gave_up.is_some() && target_ran {
            self.broken("the source took back a guest that runs on the target".into());
        }
        self.check_one_owner();
    }

    pub fn target_started(&self) {
        self.note(|| "the guest runs on the target".into());
        self.lock().target_runs = true;
        if !self.gave_up() {
            self.broken("the target runs a guest that the source has not given up".into());
        }
        if self.has_agents() && self.promised(Side::Target) != Some(Promise::Granted) {
            self.broken("the target runs a guest without a record of the source's word".into());
        }
        self.check_one_owner();
    }

    /// The guest goes on on the target, by a person who knows that it is its own.
    pub fn target_goes_on(&self) {
        self.note(|| "a person lets the guest run on the target".into());
        let mut state = self.lock();
        (state.target_runs, state.let_run) = (true, true);
        drop(state);
        self.check_one_owner();
    }

    pub fn has_agents(&self) -> bool {
        self.lock().agents.is_some()
    }

    fn promised(&self, side: Side) -> Option<Promise> {
        self.agent(side, |agent| agent.promise())?
    }

    /// Does something with the agent of that side, if there is one.
    pub fn agent<R>(&self, side: Side, act: impl FnOnce(&mut Agent) -> R) -> Option<R> {
        let mut state = self.lock();
        let [source, target] = state.agents.as_mut()?;
        Some(act(match side {
            Side::Source => source,
            Side::Target => target,
        }))
    }

    /// The target ended without knowing whose the guest is. A person looks at the source, and lets
    /// it run on the target if the source has given it up.
    pub fn left_to_a_person(&self) {
        if !self.has_agents() && self.gave_up() && !self.source_runs() {
            self.note(|| "a person lets the guest run on the target".into());
            let mut state = self.lock();
            (state.target_runs, state.let_run) = (true, true);
        }
    }

    pub fn was_let_run(&self) -> bool {
        self.lock().let_run
    }

    /// A guest that stood still has not done so for longer than its user allows.
    fn check_standstill(&self) {
        let state = self.lock();
        let (stopped_at, limit) = (state.stopped_at, state.downtime_limit);
        drop(state);
        if let (Some(stopped_at), DowntimeLimit::Fixed(limit)) = (stopped_at, limit) {
            let stood = self.now().since(stopped_at);
            if stood > limit + STANDSTILL_SLACK {
                self.broken(format!(
                    "the guest stood still for {stood:?}, over {limit:?}"
                ));
            }
        }
    }

    fn check_one_owner(&self) {
        if self.source_runs() && self.target_runs() {
            self.broken("the guest runs on both sides".into());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
