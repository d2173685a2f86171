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
//! Invariants: a page is in `pending`, in `held`, in `rewritten` or in a ledger until the target has acknowledged it
//! ("no page lost": [`undelivered`](Source::undelivered) gives all back); within one round a
//! page is handed out once; the hand-over needs a [`HandedOver`], which consumes the right to
//! run.

use std::collections::VecDeque;
use std::time::Duration;

mod account;
mod parts;
mod references;
mod rehearse;
mod rewritten;
mod rounds;

pub use parts::{Batch, SentFrame, SourceConfig, SourceStatus, SourceStep, Work};
pub use references::References;

use account::Marks;
use references::Answers;
use rehearse::RoundsUnderWay;
use rewritten::Rewritten;
use rounds::POLICY_TICK;

use super::error::{GuestLocation, MigrationError};
use super::heat::Heat;
use super::ledger::Ledger;
use super::report::PagesSent;
use super::right::{HandedOver, TargetReady};
use super::stages::SourceStages;
use super::volume::DataBytes;
use super::watch::{PeerWatch, Watch};
use super::{DATA_SILENCE, HEARTBEAT, PEER_SILENCE};
use crate::converge::{BlackoutForecast, Estimates, Policy, Prospect, Response, Share};
use crate::memory::{Layout, PageBitmap};
use crate::units::{ByteCount, Instant, Rate};
use crate::wire::{
    AbortCode, Ack, Encodings, Hello, MAX_FRAME_PAGES, Message, OLDEST_VERSION, SessionId,
    StateChunk, VERSION,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
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
    ledger: Ledger,
    round_ended: bool,
}

/// The source machine.
#[derive(Debug)]
pub struct Source {
    session: SessionId,
    frame_pages: u64,
    verify: bool,
    layout: Layout,
    policy: Box<dyn Policy>,

    phase: Phase,
    round: u32,
    /// Pages of this round that no channel has taken yet.
    pending: PageBitmap,
    /// Pages that wait for a later round, or for the blackout.
    held: PageBitmap,
    held_pages: u64,
    /// Those of them that were written in the round that is over.
    held_written: u64,
    heat: Heat,
    rewritten: Rewritten,
    left: u64,
    cursor: u64,
    channels: Vec<Channel>,
    answers: Answers,
    under_way: RoundsUnderWay,

    estimates: Estimates,
    pages: PagesSent,
    data: DataBytes,
    stages: SourceStages,
    page_bytes: ByteCount,
    state_bytes: ByteCount,
    forecast: Option<BlackoutForecast>,
    last_harvest_took: Duration,
    prospect: Option<Prospect>,
    prospect_due: Instant,
    digest_here: Option<u128>,
    digest_there: Option<u128>,
    /// Share of its time that the guest is kept from running.
    throttle: Share,
    throttle_most: Share,
    /// A new share that the guest has not been given yet.
    throttle_asked: Option<Share>,
    /// What the throttle came to over the last round, if not to `throttle`.
    throttle_had: Option<Share>,
    /// What a throttle takes of the guest's work.
    response: Response,
    placed_bytes: ByteCount,
    digest_asked: bool,
    state_asked: bool,
    placed_all: bool,
    target_cpu: Duration,
    /// Encodings that the target reads.
    target_reads: Encodings,
    marks: Marks,

    policy_due: Instant,
    watch: PeerWatch,
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
            rewritten: Rewritten::new(config.layout.pages()),
            layout: config.layout,
            policy: config.policy,
            phase: Phase::Greeting,
            round: 0,
            left: 0,
            cursor: 0,
            channels: (0..config.channels).map(|_| Channel::default()).collect(),
            under_way: RoundsUnderWay::default(),
            estimates: Estimates::default(),
            pages: PagesSent::default(),
            data: DataBytes::default(),
            stages: SourceStages::default(),
            page_bytes: ByteCount(0),
            state_bytes: ByteCount(0),
            forecast: None,
            last_harvest_took: Duration::ZERO,
            prospect: None,
            prospect_due: now,
            digest_here: None,
            digest_there: None,
            throttle: Share::NONE,
            throttle_most: Share::NONE,
            throttle_asked: None,
            throttle_had: None,
            response: Response::default(),
            placed_bytes: ByteCount(0),
            digest_asked: false,
            state_asked: false,
            placed_all: false,
            target_cpu: Duration::ZERO,
            target_reads: Encodings::BASIC,
            marks: Marks {
                began: now,
                ..Marks::default()
            },
            policy_due: now,
            watch: PeerWatch::new(now),
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

    // --- what happened -------------------------------------------------------------------

    /// Takes a message from the control connection. A piece of the target's answer to the
    /// device state is handed through.
    ///
    /// # Errors
    /// When the message ends the migration: a refusal, an abort, or one that must not come now.
    /// The caller passes the error to [`fail`](Self::fail).
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
    ) -> Result<Option<StateChunk>, MigrationError> {
        self.watch.heard(now);
        match (message, self.phase) {
            (Message::Ping, _) => self.say(now, Message::Pong),
            (Message::Pong, phase) => {
                self.estimates.rehearsal.ponged(now);
                if matches!(phase, Phase::Greeting | Phase::Arming | Phase::Round) {
                    self.ping(now);
                }
            }
            (Message::Abort { code, reason }, _) => {
                // A target that is ready gives up for one reason of its own: the guest was
                // handed over and does not run.
                self.kept_by_target = self.handed_over && code == AbortCode::Guest;
                return Err(MigrationError::PeerAborted { code, reason });
            }
            (Message::Refuse(refuse), Phase::Greeting) => {
                return Err(MigrationError::Refused {
                    reasons: refuse.reasons,
                });
            }
            (Message::Accept(accept), Phase::Greeting) => {
                self.accept_references(accept.references)?;
                self.target_reads = accept.reads;
                self.phase = Phase::Arming;
            }
            (Message::Ack(ack), _) => self.handle_ack(now, &ack)?,
            (Message::Catalogue(chunk), phase) if phase != Phase::Greeting => {
                self.handle_catalogue(&chunk)?;
            }
            (Message::Missing(runs), phase) if phase != Phase::Greeting => {
                self.handle_missing(&runs)?;
            }
            (Message::Complete { digest }, Phase::Completing) => {
                if !self.all_is_placed() {
                    return Err(misbehaved(
                        "it said complete before acknowledging all pages",
                    ));
                }
                if digest.is_some() != self.verify {
                    return Err(misbehaved(
                        "its digest is there or missing against the handshake",
                    ));
                }
                self.digest_there = digest;
                self.placed_all = true;
                self.settle_complete(now)?;
            }
            (Message::State(chunk), phase) if phase != Phase::Greeting => {
                self.state_bytes += ByteCount(chunk.bytes.len() as u64);
                return Ok(Some(chunk));
            }
            (Message::Ready, Phase::Loading | Phase::SavingState) => {
                self.phase = Phase::Ready;
                self.marks.ready = now;
                self.ready = Some(TargetReady(()));
            }
            // After a reattach the target repeats that it is ready: the hand-over was lost.
            (Message::Ready, Phase::HandedOver) => self.say(now, Message::HandOver),
            (Message::Running { cpu_us }, Phase::HandedOver) => {
                self.phase = Phase::Completed;
                self.marks.running = now;
                self.target_cpu = Duration::from_micros(cpu_us);
                self.say(now, Message::Settled);
            }
            // It answered twice, over the old connection and the new one.
            (Message::Running { .. }, Phase::Completed) => {}
            (message, phase) => {
                return Err(misbehaved(&format!("{:?} while {phase:?}", message.kind())));
            }
        }
        Ok(None)
    }

    fn handle_ack(&mut self, now: Instant, ack: &Ack) -> Result<(), MigrationError> {
        let (placed, refers) = self
            .channels
            .get_mut(usize::from(ack.channel))
            .and_then(|channel| channel.ledger.acknowledge(ack))
            .ok_or_else(|| misbehaved(&format!("an impossible acknowledgement {ack:?}")))?;
        self.acked_at = now;
        self.placed_bytes += placed;
        if refers {
            self.estimates.link.referred();
        }
        self.estimates.link.placed(now, placed);
        let ledgers = || self.channels.iter().map(|channel| &channel.ledger);
        while let Some(round) = self.under_way.placed(now, ledgers()) {
            self.estimates.pages.round(round);
        }
        if self.all_is_placed() {
            self.marks.placed = now;
            if !matches!(self.phase, Phase::Round | Phase::LastRound) {
                self.estimates.link.end(now);
            }
        }
        Ok(())
    }

    /// Another side that is known to be there: this one has no room for what it says.
    pub fn heard(&mut self, now: Instant) {
        self.watch.heard(now);
    }

    /// Time has passed: the other side may have died, and the policy may want to give up.
    ///
    /// # Errors
    /// When nothing was heard for [`PEER_SILENCE`], or nothing placed for [`DATA_SILENCE`].
    pub fn handle_time(&mut self, now: Instant) -> Result<(), MigrationError> {
        if self.is_over() {
            return Ok(());
        }
        match self.watch.look(now) {
            Watch::Nothing => {}
            Watch::Ping => self.say(now, Message::Ping),
            Watch::Dead => {
                return Err(MigrationError::PeerSilent {
                    seconds: PEER_SILENCE.as_secs(),
                });
            }
        }
        if !self.all_is_placed() && now.since(self.acked_at) >= DATA_SILENCE {
            return Err(MigrationError::Link {
                what: "pages are sent and none arrives",
                source: std::io::ErrorKind::TimedOut.into(),
            });
        }
        if self.phase == Phase::Round && now >= self.policy_due {
            let late = now.since(self.policy_due);
            self.estimates.rehearsal.jitter.late(late);
            self.policy_due = now.after(POLICY_TICK);
            self.ask_policy(now, false)?;
        }
        Ok(())
    }

    /// Between the last two harvests the throttle has had the effect of `share` for all vCPUs,
    /// which need not be what was asked for; `None`: it was. A throttle takes as much of the
    /// guest's work as `response` says.
    pub fn throttle_had(&mut self, share: Option<Share>, response: Response) {
        self.throttle_had = share;
        self.response = response;
    }

    /// The largest share that the policy allows for any vCPU.
    pub fn throttle_most(&self) -> Share {
        self.policy.throttle_most()
    }

    /// The digest of this side's memory, after the guest stopped.
    ///
    /// # Errors
    /// When it differs from the target's.
    pub fn digested(&mut self, now: Instant, digest: u128) -> Result<(), MigrationError> {
        self.digest_here = Some(digest);
        self.settle_complete(now)
    }

    /// The device state has been sent, or is on its way without further help.
    pub fn state_sent(&mut self) {
        if self.phase == Phase::SavingState {
            self.phase = Phase::Loading;
        }
    }

    /// `count` bytes of device state went to the target.
    pub fn count_state_bytes(&mut self, count: ByteCount) {
        self.state_bytes += count;
    }

    /// The right to run was given up; tells the target.
    pub fn handed_over(&mut self, now: Instant, _gone: HandedOver) {
        self.handed_over = true;
        self.phase = Phase::HandedOver;
        self.say(now, Message::HandOver);
    }

    /// A lost control connection was replaced after the hand-over: asks the target where it
    /// stands.
    pub fn reattached(&mut self, now: Instant) {
        self.out.clear();
        self.failure = None;
        self.watch.heard(now);
        let session = self.session;
        self.say(now, Message::Reattach(session));
    }

    /// Ends the migration. The first reason is kept.
    ///
    /// After the hand-over the machine stays where it was: [`reattached`](Self::reattached) may
    /// still bring it to its end.
    pub fn fail(&mut self, error: MigrationError) {
        match self.phase {
            Phase::Completed => return,
            Phase::HandedOver => {}
            _ => self.phase = Phase::Failed,
        }
        self.failure.get_or_insert(error);
    }

    // --- what to do ----------------------------------------------------------------------

    /// What the caller must do next.
    pub fn poll(&mut self, now: Instant) -> SourceStep {
        if self.failure.is_some() {
            return SourceStep::Failed;
        }
        if self.phase == Phase::Resting && now >= self.policy_due {
            self.phase = Phase::Harvesting;
        }
        if let Some(share) = self.throttle_asked.take()
            && matches!(
                self.phase,
                Phase::Round | Phase::Harvesting | Phase::Resting
            )
        {
            self.throttle = share;
            self.throttle_most = self.throttle_most.max(share);
            return SourceStep::Throttle(share);
        }
        match self.phase {
            Phase::Arming => SourceStep::Arm,
            Phase::Harvesting => SourceStep::Harvest,
            Phase::Round if self.is_harvest_due(now) => SourceStep::HarvestWithin,
            Phase::Stopping => SourceStep::StopGuest,
            // Not while the last pages are sent and placed: that would take the processors from
            // them, and the target begins when it has them all.
            Phase::Completing if self.verify && !self.digest_asked && self.all_is_placed() => {
                self.digest_asked = true;
                SourceStep::Digest
            }
            Phase::SavingState if !self.state_asked => {
                self.state_asked = true;
                SourceStep::SaveState
            }
            Phase::Ready => match self.ready.take() {
                Some(ready) => SourceStep::HandOver(ready),
                None => self.wait(now),
            },
            Phase::Completed => SourceStep::Completed,
            Phase::Failed => SourceStep::Failed,
            _ => self.wait(now),
        }
    }

    fn wait(&self, now: Instant) -> SourceStep {
        let mut until = now.after(HEARTBEAT / 4);
        if matches!(self.phase, Phase::Round | Phase::Resting) {
            until = until.min(self.policy_due);
        }
        SourceStep::Wait(until)
    }

    /// A message for the control connection.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.out.pop_front()
    }

    /// Whether there is nothing more to do.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Completed | Phase::Failed) || self.failure.is_some()
    }

    /// Whether the target has agreed to take the guest.
    pub fn is_accepted(&self) -> bool {
        self.phase != Phase::Greeting
    }

    /// Whether the source has given up the right to run.
    pub fn has_handed_over(&self) -> bool {
        self.handed_over
    }

    /// Encodings of pages that the target reads; the basic ones until it has agreed.
    pub fn target_reads(&self) -> Encodings {
        self.target_reads
    }

    /// Rate at which the target places data, in bytes on the wire; `None` while it is unknown.
    pub fn link_rate(&self) -> Option<Rate> {
        self.estimates.link.rate()
    }

    /// Name of the migration.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Why it failed, once.
    pub fn take_failure(&mut self) -> Option<MigrationError> {
        self.failure.take()
    }

    /// Where the guest is when the migration fails now, as far as the protocol knows.
    pub fn guest_location(&self) -> GuestLocation {
        match self.phase {
            Phase::Completed => GuestLocation::Target,
            _ if self.kept_by_target => GuestLocation::Target,
            _ if self.handed_over => GuestLocation::Unknown,
            _ => GuestLocation::Source,
        }
    }

    // --- within --------------------------------------------------------------------------

    fn say(&mut self, now: Instant, message: Message) {
        self.watch.said(now);
        self.out.push_back(message);
    }

    /// Whether the target has placed everything that was handed out.
    fn all_is_placed(&self) -> bool {
        let mut channels = self.channels.iter();
        channels.all(|channel| channel.ledger.is_settled())
    }

    /// Goes on once the target has everything and, in verify mode, both digests are there.
    fn settle_complete(&mut self, now: Instant) -> Result<(), MigrationError> {
        if !self.placed_all || self.phase != Phase::Completing {
            return Ok(());
        }
        match (self.verify, self.digest_here, self.digest_there) {
            (true, Some(here), Some(there)) if here != there => {
                return Err(MigrationError::DigestMismatch { here, there });
            }
            (true, None, _) => return Ok(()),
            _ => {}
        }
        self.phase = Phase::SavingState;
        self.marks.complete = now;
        Ok(())
    }
}

fn misbehaved(what: &str) -> MigrationError {
    MigrationError::PeerMisbehaved(what.to_owned())
}
