//! The source's side of the protocol, without I/O.
//!
//! Call order: [`Source::new`] queues the `Hello`; then, until [`SourceStep::Completed`] or
//! [`SourceStep::Failed`],
//! - `handle_*` methods take what happened (a message, the time),
//! - [`poll`](Source::poll) says what the caller must do, and the matching method
//!   ([`armed`](Source::armed), [`harvested`](Source::harvested), [`stopped`](Source::stopped),
//!   ...) takes the result,
//! - each data channel asks [`next_work`](Source::next_work) what to send, and reports it with
//!   [`sent`](Source::sent),
//! - [`poll_message`](Source::poll_message) gives messages for the control connection.
//!
//! Invariants: a page is in `pending`, `held`, `mid_round` or in flight until the target has
//! acknowledged it ("no page lost": [`undelivered`](Source::undelivered) gives all back); within one
//! round a page is handed out once; the hand-over needs a [`Relinquished`](super::Relinquished), which
//! consumes the ownership.
//!
//! Cost: nine bits for each page of the guest, three of them for its `heat`.

mod control;
mod hand_over;
mod heat;
mod in_flight;
mod mid_round_harvest;
mod policy;
mod references;
mod rehearse;
mod rounds;
mod status;
mod types;

pub use references::References;
pub use types::{Batch, SourceConfig, SourceStatus, SourceStep, Work};

use std::collections::VecDeque;
use std::time::Duration;

use self::heat::Heat;
use self::in_flight::InFlight;
use self::mid_round_harvest::MidRoundHarvest;
use self::references::Answers;
use self::rehearse::RoundsUnderWay;
use self::status::Timestamps;
use super::HEARTBEAT;
use super::counters::{EncodedBytes, PagesSent};
use super::error::MigrationError;
use super::liveness::Liveness;
use super::ownership::TargetReady;
use super::stages::SourceStages;
use crate::converge::{
    ConvergenceStatus, DowntimeForecast, Estimates, Policy, ThrottleResponse, ThrottleShare,
};
use crate::memory::{Layout, PageBitmap};
use crate::units::{ByteCount, Instant};
use crate::wire::{
    Encodings, Hello, MAX_FRAME_PAGES, Message, OLDEST_VERSION, SessionId, VERSION, Waited,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Arming,
    Round,
    Harvesting,
    /// Nothing is left to send, and it is not time to stop the guest.
    Resting,
    Stopping,
    LastRound,
    /// All is sent; the target has not said that all is placed.
    Completing,
    SavingState,
    Loading,
    /// The target is ready; the right to run is still here.
    Ready,
    HandedOver,
    Completed,
    Failed,
}

#[derive(Debug, Default)]
struct Channel {
    in_flight: InFlight,
    round_ended: bool,
    /// What the target said last.
    waited: Option<Waited>,
}

/// The source machine.
#[derive(Debug)]
pub struct Source {
    session: SessionId,
    frame_pages: u64,
    verify: bool,
    layout: Layout,
    policy: Box<dyn Policy>,

    state: State,
    round: u32,
    /// Pages of this round that no channel has taken yet.
    pending: PageBitmap,
    /// Pages that wait for a later round, or for the blackout.
    held: PageBitmap,
    held_pages: u64,
    /// Those of them that were written in the round that is over.
    held_written: u64,
    heat: Heat,
    mid_round: MidRoundHarvest,
    left: u64,
    cursor: u64,
    channels: Vec<Channel>,
    answers: Answers,
    under_way: RoundsUnderWay,

    estimates: Estimates,
    pages: PagesSent,
    encoded: EncodedBytes,
    stages: SourceStages,
    page_bytes: ByteCount,
    state_bytes: ByteCount,
    forecast: Option<DowntimeForecast>,
    last_harvest_took: Duration,
    convergence: Option<ConvergenceStatus>,
    convergence_due: Instant,
    digest_here: Option<u128>,
    digest_there: Option<u128>,
    /// Share of its time that the guest is kept from running.
    throttle: ThrottleShare,
    throttle_most: ThrottleShare,
    /// A new share that the guest has not been given yet.
    throttle_asked: Option<ThrottleShare>,
    /// What the throttle came to over the last round, if not to `throttle`.
    throttle_had: Option<ThrottleShare>,
    /// What a throttle takes of the guest's work.
    response: ThrottleResponse,
    placed_bytes: ByteCount,
    digest_asked: bool,
    state_asked: bool,
    placed_all: bool,
    target_cpu: Duration,
    /// Encodings that the target reads.
    target_reads: Encodings,
    times: Timestamps,

    policy_due: Instant,
    liveness: Liveness,
    /// When the pages under way last became less, or began to be.
    acked_at: Instant,
    out: VecDeque<Message>,
    ready: Option<TargetReady>,
    /// The policy wants the guest stopped: the round under way ends early.
    cut_short: bool,
    /// The guest is stopped although the blackout is known to be too long.
    forced: bool,
    /// The target said that it has the guest, although it does not run.
    kept_by_target: bool,
    /// Set once, never cleared: from then on this side must not run the guest.
    handed_over: bool,
    failure: Option<MigrationError>,
}

impl Source {
    /// Begins a migration at `now`: the `Hello` is the first message.
    pub fn new(config: SourceConfig, now: Instant) -> Self {
        let hello = Hello {
            versions: (OLDEST_VERSION, VERSION),
            session: config.session,
            channels: config.channels,
            verify: config.verify,
            references: config.references,
            layout: config.layout.clone(),
            facts: config.facts,
            needs: config.needs,
        };
        let mut source = Self {
            session: config.session,
            frame_pages: config.frame_pages.clamp(1, MAX_FRAME_PAGES as u64),
            verify: config.verify,
            pending: PageBitmap::new(config.layout.pages()),
            answers: Answers::new(config.references, config.layout.pages()),
            held: PageBitmap::new(config.layout.pages()),
            held_pages: 0,
            held_written: 0,
            heat: Heat::new(config.layout.pages()),
            mid_round: MidRoundHarvest::new(config.layout.pages()),
            layout: config.layout,
            policy: config.policy,
            state: State::Greeting,
            round: 0,
            left: 0,
            cursor: 0,
            channels: (0..config.channels).map(|_| Channel::default()).collect(),
            under_way: RoundsUnderWay::default(),
            estimates: Estimates::default(),
            pages: PagesSent::default(),
            encoded: EncodedBytes::default(),
            stages: SourceStages::default(),
            page_bytes: ByteCount(0),
            state_bytes: ByteCount(0),
            forecast: None,
            last_harvest_took: Duration::ZERO,
            convergence: None,
            convergence_due: now,
            digest_here: None,
            digest_there: None,
            throttle: ThrottleShare::NONE,
            throttle_most: ThrottleShare::NONE,
            throttle_asked: None,
            throttle_had: None,
            response: ThrottleResponse::default(),
            placed_bytes: ByteCount(0),
            digest_asked: false,
            state_asked: false,
            placed_all: false,
            target_cpu: Duration::ZERO,
            target_reads: Encodings::BASIC,
            times: Timestamps {
                began: now,
                ..Timestamps::default()
            },
            policy_due: now,
            liveness: Liveness::new(now),
            acked_at: now,
            out: VecDeque::from([Message::Hello(hello)]),
            ready: None,
            cut_short: false,
            forced: false,
            kept_by_target: false,
            handed_over: false,
            failure: None,
        };
        // Behind the greeting: the target answers while it prepares.
        source.ping(now);
        source
    }

    /// What the caller must do next.
    pub fn poll(&mut self, now: Instant) -> SourceStep {
        if self.failure.is_some() {
            return SourceStep::Failed;
        }
        if self.state == State::Resting && now >= self.policy_due {
            self.state = State::Harvesting;
        }
        if let Some(share) = self.throttle_asked.take()
            && matches!(
                self.state,
                State::Round | State::Harvesting | State::Resting
            )
        {
            self.throttle = share;
            self.throttle_most = self.throttle_most.max(share);
            return SourceStep::Throttle(share);
        }
        match self.state {
            State::Arming => SourceStep::Arm,
            State::Harvesting => SourceStep::Harvest,
            State::Round if self.is_harvest_due(now) => SourceStep::HarvestWithin,
            State::Stopping => SourceStep::StopGuest,
            // Not while the last pages are sent and placed: that would take the processors from
            // them, and the target begins when it has them all.
            State::Completing if self.verify && !self.digest_asked && self.all_is_placed() => {
                self.digest_asked = true;
                SourceStep::Digest
            }
            State::SavingState if !self.state_asked => {
                self.state_asked = true;
                SourceStep::SaveState
            }
            State::Ready => match self.ready.take() {
                Some(ready) => SourceStep::HandOver(ready),
                None => self.wait(now),
            },
            State::Completed => SourceStep::Completed,
            State::Failed => SourceStep::Failed,
            _ => self.wait(now),
        }
    }

    fn wait(&self, now: Instant) -> SourceStep {
        let mut until = now.after(HEARTBEAT / 4);
        if matches!(self.state, State::Round | State::Resting) {
            until = until.min(self.policy_due);
        }
        SourceStep::Wait(until)
    }

    /// Whether there is nothing more to do.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Completed | State::Failed) || self.failure.is_some()
    }

    /// Whether the target has agreed to take the guest.
    pub fn is_accepted(&self) -> bool {
        self.state != State::Greeting
    }

    /// Encodings of pages that the target reads; the basic ones until it has agreed.
    pub fn target_reads(&self) -> Encodings {
        self.target_reads
    }

    /// Bytes on the wire that the target has placed so far, over all channels.
    pub fn placed_bytes(&self) -> ByteCount {
        self.placed_bytes
    }

    /// How long that channel of the target has waited, if it says.
    pub fn target_waited(&self, channel: u16) -> Option<Waited> {
        self.channels.get(usize::from(channel))?.waited
    }

    /// Name of the migration.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Why it failed, once.
    pub fn take_failure(&mut self) -> Option<MigrationError> {
        self.failure.take()
    }
}
