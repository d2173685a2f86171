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
//! | file | what it holds |
//! |---|---|
//! | `state`, `switchover`, `completing`, `commit` | where it is, with what exists only there |
//! | `send_set`, `heat`, `mid_round_harvest` | pages that are still to be sent |
//! | `channels`, `in_flight` | pages that were handed out and not acknowledged |
//! | `references` | what the target has already, and what it misses |
//! | `throttle`, `convergence`, `measures`, `rounds_in_flight` | when to stop the guest, and by what that is decided |
//! | `totals` | sums for the report |
//! | `control`, `rounds`, `policy`, `standstill`, `hand_over`, `status` | the machine's methods, by what they are about |
//!
//! Invariants: a page is in the send set, in flight or missing until the target has acknowledged it
//! ("no page lost": [`undelivered`](Source::undelivered) gives all back); within one round a page is
//! handed out once; the hand-over consumes the guest's ownership.
//!
//! Cost: nine bits for each page of the guest, three of them for its heat.

mod channels;
mod commit;
mod completing;
mod control;
mod convergence;
mod dedup;
mod hand_over;
mod heat;
mod in_flight;
mod measures;
mod mid_round_harvest;
mod policy;
mod rounds;
mod rounds_in_flight;
mod send_set;
mod standstill;
mod state;
mod status;
mod switchover;
mod throttle;
mod totals;
mod types;

pub use dedup::DedupContext;
pub use types::{Batch, SourceConfig, SourceStatus, SourceStep, Work};

use std::time::Duration;

use self::channels::Channels;
use self::convergence::Convergence;
use self::dedup::MissingPages;
use self::measures::Measures;
use self::send_set::SendSet;
use self::state::{Precopy, State};
use self::throttle::Throttle;
use self::totals::Totals;
use super::HEARTBEAT;
use super::downtime_limit::DowntimeLimit;
use super::error::MigrationError;
use super::peer::Peer;
use crate::memory::Layout;
use crate::units::{ByteCount, Instant};
use crate::wire::{
    Encodings, Hello, MAX_FRAME_PAGES, Message, OLDEST_VERSION, SessionId, VERSION, Waited,
};

/// The source machine.
#[derive(Debug)]
pub struct Source {
    session: SessionId,
    frame_pages: u64,
    verify: bool,
    downtime_limit: DowntimeLimit,
    layout: Layout,
    /// When the migration began.
    began: Instant,
    /// Encodings that the target reads.
    target_reads: Encodings,

    state: State,
    /// The round under way, from 1; 0 before the first.
    round: u32,
    send_set: SendSet,
    channels: Channels,
    missing_pages: MissingPages,
    throttle: Throttle,
    convergence: Convergence,
    measures: Measures,
    totals: Totals,
    /// Processor time that the target's process has used, once it says so.
    target_cpu: Duration,
    peer: Peer,
}

impl Source {
    /// Begins a migration at `now`: the `Hello` is the first message.
    pub fn new(config: SourceConfig, now: Instant) -> Self {
        let pages = config.layout.pages();
        let hello = Hello {
            versions: (OLDEST_VERSION, VERSION),
            session: config.session,
            channels: config.channels,
            verify: config.verify,
            dedup: config.dedup,
            layout: config.layout.clone(),
            files: config.files,
            persistent: config.persistent,
            properties: config.properties,
            needs: config.needs,
        };
        let mut source = Self {
            session: config.session,
            frame_pages: config.frame_pages.clamp(1, MAX_FRAME_PAGES as u64),
            verify: config.verify,
            downtime_limit: config.downtime_limit,
            layout: config.layout,
            began: now,
            target_reads: Encodings::BASIC,
            state: State::Handshake { marks: None },
            round: 0,
            send_set: SendSet::new(pages),
            channels: Channels::new(config.channels, now),
            missing_pages: MissingPages::new(config.dedup, pages),
            throttle: Throttle::default(),
            convergence: Convergence::new(config.policy, now),
            measures: Measures::default(),
            totals: Totals::default(),
            target_cpu: Duration::ZERO,
            peer: Peer::new(now),
        };
        source.peer.send(now, Message::Hello(hello));
        // Behind the greeting: the target answers while it prepares.
        source.ping(now);
        source
    }

    /// What the caller must do next.
    pub fn poll(&mut self, now: Instant) -> SourceStep {
        if matches!(self.state, State::Precopy(Precopy::Idle)) && now >= self.convergence.ask_at {
            self.state = State::Precopy(Precopy::Harvesting);
        }
        if let Some(share) = self.throttle.take_asked()
            && matches!(self.state, State::Precopy(_))
        {
            self.throttle.give(share);
            return SourceStep::Throttle(share);
        }
        let due = match &mut self.state {
            State::Arming => Some(SourceStep::Arm),
            State::Precopy(Precopy::Harvesting) => Some(SourceStep::Harvest),
            State::Precopy(Precopy::Round { cut_short: None }) => {
                let took = self.measures.last_harvest_took();
                let due = self.send_set.is_harvest_due(now, took);
                due.then_some(SourceStep::HarvestWithin)
            }
            State::Switchover(switchover) => switchover.next_step(),
            State::Failed(_) => Some(SourceStep::Failed),
            State::Handshake { marks } => marks.take().map(SourceStep::LookForMarks),
            State::Precopy(_) => None,
        };
        due.unwrap_or_else(|| self.wait(now))
    }

    fn wait(&self, now: Instant) -> SourceStep {
        let until = now.after(HEARTBEAT / 4);
        SourceStep::Wait(match self.state {
            State::Precopy(_) => until.min(self.convergence.ask_at),
            _ => until.min(self.standstill_ends().unwrap_or(until)),
        })
    }

    /// Whether there is nothing more to do.
    pub fn is_over(&self) -> bool {
        self.state.is_over()
    }

    /// Whether the target has agreed to take the guest, and the migration goes on.
    pub fn is_accepted(&self) -> bool {
        self.is_answered() && !self.is_over()
    }

    /// Whether the handshake is over, in whatever way.
    fn is_answered(&self) -> bool {
        !matches!(self.state, State::Handshake { .. })
    }

    /// The first of the marks that is in the guest's files, if one is.
    pub fn marks_looked_for(&mut self, now: Instant, shows: Option<u16>) {
        self.peer.send(now, Message::MarkShows(shows));
    }

    /// Encodings of pages that the target reads; the basic ones until it has agreed.
    pub fn target_reads(&self) -> Encodings {
        self.target_reads
    }

    /// Bytes on the wire that all data channels have written so far.
    pub fn sent_bytes(&self) -> ByteCount {
        self.totals.page_wire_bytes
    }

    /// Bytes on the wire that the target has placed so far, over all channels.
    pub fn placed_bytes(&self) -> ByteCount {
        self.channels.placed_bytes()
    }

    /// How long that channel of the target has waited, if it says.
    pub fn target_waited(&self, channel: u16) -> Option<Waited> {
        self.channels.waited(channel)
    }

    /// Name of the migration.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Why it failed, once.
    pub fn take_failure(&mut self) -> Option<MigrationError> {
        self.state.take_failure()
    }
}
