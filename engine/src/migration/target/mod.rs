//! The target's side of the protocol, without I/O.
//!
//! Call order: [`Target::new`]; then, until [`TargetStep::Running`] or [`TargetStep::Failed`],
//! - [`handle_message`](Target::handle_message) takes messages of the control connection,
//! - each data channel calls [`join`](Target::join) once, [`admit`](Target::admit) before it
//!   places a frame's pages and [`placed`](Target::placed) after, and
//!   [`round_end`](Target::round_end), after which it waits until
//!   [`may_read`](Target::may_read) says so,
//! - [`poll`](Target::poll) says what else must be done.
//!
//! Invariants: no page of a round is placed before every page of the round before
//! (the barrier), so a page that was sent twice ends as it was sent last; every page lies
//! within the agreed layout; a page that was sent and is not there is missing until it is sent
//! whole, and no memory with one is complete; the guest may run only with a [`Granted`], which is
//! made from the source's `HandOver` and nothing else.
//!
//! Cost: a frame takes a look at its runs and two additions; an acknowledgement goes out every
//! fourth frame of a channel. Nothing is allocated while pages come, unless some are missing.

mod channels;
mod compatibility;
mod control;
mod prepared;
mod references;
mod types;

pub use types::{CatalogueDemand, TargetConfig, TargetStatus, TargetStep};

use std::collections::VecDeque;
use std::time::Duration;

use self::channels::Channel;
use self::references::Missing;
use super::HEARTBEAT;
use super::error::MigrationError;
use super::liveness::Liveness;
use super::ownership::Granted;
use super::phase::Phase;
use super::stages::TargetStages;
use crate::units::Instant;
use crate::wire::{Accept, Hello, Message};

/// In the order they are passed through; `Failed` from any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Greeting,
    /// The guest fits; the memory is being cleared.
    Preparing,
    Receiving,
    Digesting,
    Loading,
    Ready,
    Starting,
    Running,
    Failed,
}

/// The target machine.
#[derive(Debug)]
pub struct Target {
    config: TargetConfig,
    state: State,
    hello: Option<Hello>,
    channels: Vec<Channel>,
    /// Rounds that every channel has ended.
    rounds_ended: u32,
    last_round: Option<u32>,
    missing: Missing,
    step_given: bool,
    granted: Option<Granted>,
    /// Set once, never cleared: the source has given up the right to run.
    owns_guest: bool,
    target_cpu_us: u64,
    stages: TargetStages,
    /// Set once, never cleared: the source was told that the guest could run here.
    promised: bool,
    /// The source said that it keeps the guest.
    kept_by_source: bool,
    /// The source knows that the guest runs here.
    settled: bool,
    /// While there is no control connection: until when the source may ask over a new one.
    in_doubt_until: Option<Instant>,
    liveness: Liveness,
    out: VecDeque<Message>,
    failure: Option<MigrationError>,
}

impl Target {
    /// Waits for a source's `Hello`.
    pub fn new(config: TargetConfig, now: Instant) -> Self {
        Self {
            missing: Missing::none_of(config.layout.pages()),
            config,
            state: State::Greeting,
            hello: None,
            channels: Vec::new(),
            rounds_ended: 0,
            last_round: None,
            step_given: false,
            granted: None,
            owns_guest: false,
            target_cpu_us: 0,
            stages: TargetStages::default(),
            promised: false,
            kept_by_source: false,
            settled: false,
            in_doubt_until: None,
            liveness: Liveness::new(now),
            out: VecDeque::new(),
            failure: None,
        }
    }

    /// The memory reads as zeros: the source may send.
    pub fn prepared(&mut self, now: Instant) {
        if self.state == State::Preparing
            && let Some(version) = self.hello.as_ref().and_then(Hello::common_version)
        {
            self.state = State::Receiving;
            self.step_given = false;
            let accept = Accept {
                version,
                reads: self.config.reads,
                references: self.terms(),
            };
            self.say(now, Message::Accept(accept));
        }
    }

    /// What the caller must do next.
    pub fn poll(&mut self, now: Instant) -> TargetStep {
        match self.state {
            State::Digesting if !self.verify() => self.complete(now, None),
            _ => {}
        }
        let step = match self.state {
            State::Preparing => TargetStep::Prepare,
            State::Digesting => TargetStep::Digest,
            State::Loading => TargetStep::Load,
            State::Running => return TargetStep::Running,
            State::Failed => return TargetStep::Failed,
            State::Starting => match self.granted.take() {
                Some(granted) => return TargetStep::Run(granted),
                None => return self.wait(now),
            },
            _ => return self.wait(now),
        };
        if std::mem::replace(&mut self.step_given, true) {
            self.wait(now)
        } else {
            step
        }
    }

    fn wait(&self, now: Instant) -> TargetStep {
        TargetStep::Wait(now.after(HEARTBEAT / 4))
    }

    /// The digest of the whole memory.
    pub fn digested(&mut self, now: Instant, digest: u128) {
        if self.state == State::Digesting {
            self.complete(now, Some(digest));
        }
    }

    fn complete(&mut self, now: Instant, digest: Option<u128>) {
        self.state = State::Loading;
        self.step_given = false;
        self.say(now, Message::Complete { digest });
    }

    /// The device state is loaded: the guest could run.
    pub fn loaded(&mut self, now: Instant) {
        if self.state == State::Loading {
            self.state = State::Ready;
            self.promised = true;
            self.say(now, Message::Ready);
        }
    }

    /// The guest runs here; this process has used `cpu` so far.
    pub fn running(&mut self, now: Instant, cpu: Duration) {
        if self.state == State::Starting {
            self.state = State::Running;
            self.target_cpu_us = micros(cpu);
            self.say_running(now);
        }
    }

    /// A message for the control connection.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.out.pop_front()
    }

    /// Why it failed, once.
    pub fn take_failure(&mut self) -> Option<MigrationError> {
        self.failure.take()
    }

    /// Whether there is nothing more to do.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Running | State::Failed)
    }

    /// Whether every page of the last round is in memory.
    pub fn has_all_pages(&self) -> bool {
        self.state >= State::Digesting
    }

    /// Whether the handshake asked for digests.
    pub fn verify(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.verify)
    }

    fn phase(&self) -> Phase {
        match self.state {
            State::Greeting => Phase::Handshake,
            State::Preparing => Phase::Preparing,
            State::Receiving if self.last_round.is_none() => Phase::Precopy {
                round: self.rounds_ended + 1,
            },
            State::Receiving | State::Digesting => Phase::LastRound,
            State::Loading => Phase::DeviceState,
            State::Ready => Phase::Ready,
            State::Starting => Phase::HandingOver,
            State::Running => Phase::Completed,
            State::Failed => Phase::Failed,
        }
    }

    /// Where the migration is.
    pub fn status(&self) -> TargetStatus {
        TargetStatus {
            phase: self.phase(),
            round: self.rounds_ended + 1,
            received: self.received(),
            source_lost: self.is_lost(),
            stages: self.stages,
        }
    }
}

/// A time as messages have it.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
