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
//! Invariants: a page is in `pending` or in a ledger until the target has acknowledged it
//! ("no page lost": [`undelivered`](Source::undelivered) gives both back); within one round a
//! page is handed out once; the hand-over needs a [`HandedOver`], which consumes the right to
//! run.

use std::collections::VecDeque;
use std::time::Duration;

use super::error::{GuestLocation, MigrationError};
use super::ledger::Ledger;
use super::report::{BlackoutParts, PagesSent, Report};
use super::right::{HandedOver, TargetReady};
use super::watch::{PeerWatch, Watch};
use super::{DATA_SILENCE, HEARTBEAT, PEER_SILENCE};
use crate::converge::{Decision, Estimates, Forecast, Observation, Policy, Share};
use crate::memory::{Layout, PageBitmap};
use crate::units::{ByteCount, Instant, PageCount, PageRange, Rate};
use crate::wire::{
    AbortCode, Ack, Fact, Hello, MAX_FRAME_PAGES, Message, OLDEST_VERSION, SessionId, StateChunk,
    VERSION,
};

/// How often the policy is asked within a round.
const POLICY_TICK: Duration = Duration::from_millis(50);

/// Pause before the next harvest when the last one found nothing. Rounds of nothing would follow
/// each other as fast as the processor allows, and measure the link by frames without pages.
const REST: Duration = Duration::from_millis(10);

/// Smallest share of a round worth a frame of its own when channels divide the end of it.
const SMALLEST_SHARE: u64 = 8;

/// What a source needs to know before it begins.
#[derive(Debug)]
pub struct SourceConfig {
    /// Name of the migration; random.
    pub session: SessionId,
    /// Data channels, `1..=MAX_CHANNELS`.
    pub channels: u16,
    /// Most pages in a frame, `1..=MAX_FRAME_PAGES`.
    pub frame_pages: u64,
    /// Whether to compare digests of all memory before the hand-over.
    pub verify: bool,
    /// The guest's memory.
    pub layout: Layout,
    /// What must be equal on both sides.
    pub facts: Vec<Fact>,
    /// Blackout with nothing to send, for the forecast: stop, device state, hand-over.
    pub fixed_blackout: Duration,
    /// When to stop the guest, or to give up.
    pub policy: Box<dyn Policy>,
}

/// What the caller of [`Source::poll`] must do.
#[derive(Debug)]
pub enum SourceStep {
    /// Start dirty tracking, find the populated pages; then [`Source::armed`].
    Arm,
    /// Harvest the dirty pages; then [`Source::harvested`].
    Harvest,
    /// Keep the guest from running for this share of its time from now on.
    Throttle(Share),
    /// Stop the guest, harvest for the last time; then [`Source::stopped`].
    StopGuest,
    /// Compute the digest of the (now still) memory; then [`Source::digested`].
    Digest,
    /// Send the device state; then [`Source::state_sent`].
    SaveState,
    /// Give up the right to run; then [`Source::handed_over`].
    HandOver(TargetReady),
    /// Nothing until something happens, or at latest until this time.
    Wait(Instant),
    /// The guest runs on the target.
    Completed,
    /// It ended; [`Source::take_failure`] has the reason.
    Failed,
}

/// What a data channel must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Work {
    /// Send the pages of the batch; then [`Source::sent`].
    Pages,
    /// Send the message that ends this round.
    RoundEnd(u32),
    /// Nothing for now.
    Wait,
    /// Nothing will come any more.
    Close,
}

/// Pages to send in one frame. Reused, so that nothing is allocated while data flows.
#[derive(Debug, Default)]
pub struct Batch {
    /// The round they belong to.
    pub round: u32,
    /// At most [`MAX_FRAME_PAGES`] pages in ascending runs.
    pub runs: Vec<PageRange>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct SentFrame {
    /// Bytes on the wire.
    pub bytes: ByteCount,
    /// Pages that held only zeros.
    pub zero: u64,
    /// Pages sent as they are.
    pub raw: u64,
}

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

/// Moments of the migration that the report needs.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    began: Instant,
    guest_stopped: Instant,
    last_harvested: Instant,
    placed: Instant,
    complete: Instant,
    ready: Instant,
    running: Instant,
}

#[derive(Debug, Default)]
struct Channel {
    ledger: Ledger,
    round_ended: bool,
}

/// Where a running migration is, for display.
#[derive(Clone, Copy, Debug)]
pub struct SourceStatus {
    /// Round under way, from 1; 0 before the first.
    pub round: u32,
    /// Pages of the round that are still to be sent.
    pub left: PageCount,
    /// Bytes of pages on the wire so far.
    pub sent: ByteCount,
    /// Rate of distinct pages written, over the last round.
    pub dirty: Option<Rate>,
    /// Rate at which the target places data.
    pub link: Option<Rate>,
    /// The blackout if the guest were stopped now.
    pub forecast: Option<Duration>,
    /// Whether the guest is stopped for the hand-over.
    pub blackout: bool,
    /// Share of its time that the guest is kept from running.
    pub throttle: Share,
}

/// The source machine.
#[derive(Debug)]
pub struct Source {
    session: SessionId,
    frame_pages: u64,
    verify: bool,
    layout: Layout,
    fixed_blackout: Duration,
    policy: Box<dyn Policy>,

    phase: Phase,
    round: u32,
    /// Pages of this round that no channel has taken yet.
    pending: PageBitmap,
    left: u64,
    cursor: u64,
    channels: Vec<Channel>,
    /// Pages and bytes of the round under way.
    round_pages: u64,
    round_bytes: u64,

    estimates: Estimates,
    pages: PagesSent,
    page_bytes: ByteCount,
    state_bytes: ByteCount,
    forecast: Option<Duration>,
    digest_here: Option<u128>,
    digest_there: Option<u128>,
    /// Share of its time that the guest is kept from running.
    throttle: Share,
    throttle_most: Share,
    /// A new share that the guest has not been given yet.
    throttle_asked: Option<Share>,
    placed_bytes: ByteCount,
    digest_asked: bool,
    state_asked: bool,
    placed_all: bool,
    target_cpu: Duration,
    marks: Marks,

    policy_due: Instant,
    watch: PeerWatch,
    /// When the pages under way last became less, or began to be.
    acked_at: Instant,
    out: VecDeque<Message>,
    ready: Option<TargetReady>,
    /// The policy wants the guest stopped: the round under way ends early.
    cut_short: bool,
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
            layout: config.layout.clone(),
            facts: config.facts,
        };
        Self {
            session: config.session,
            frame_pages: config.frame_pages.clamp(1, MAX_FRAME_PAGES as u64),
            verify: config.verify,
            pending: PageBitmap::new(config.layout.pages()),
            layout: config.layout,
            fixed_blackout: config.fixed_blackout,
            policy: config.policy,
            phase: Phase::Greeting,
            round: 0,
            left: 0,
            cursor: 0,
            channels: (0..config.channels).map(|_| Channel::default()).collect(),
            round_pages: 0,
            round_bytes: 0,
            estimates: Estimates::default(),
            pages: PagesSent::default(),
            page_bytes: ByteCount(0),
            state_bytes: ByteCount(0),
            forecast: None,
            digest_here: None,
            digest_there: None,
            throttle: Share::NONE,
            throttle_most: Share::NONE,
            throttle_asked: None,
            placed_bytes: ByteCount(0),
            digest_asked: false,
            state_asked: false,
            placed_all: false,
            target_cpu: Duration::ZERO,
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
            kept_by_target: false,
            handed_over: false,
            failure: None,
        }
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
            (Message::Pong, _) => {}
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
            (Message::Accept(_), Phase::Greeting) => self.phase = Phase::Arming,
            (Message::Ack(ack), _) => self.handle_ack(now, &ack)?,
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
        let placed = self
            .channels
            .get_mut(usize::from(ack.channel))
            .and_then(|channel| channel.ledger.acknowledge(ack))
            .ok_or_else(|| misbehaved(&format!("an impossible acknowledgement {ack:?}")))?;
        self.acked_at = now;
        self.placed_bytes += placed;
        self.estimates.link.placed(now, placed);
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
            self.policy_due = now.after(POLICY_TICK);
            self.ask_policy(now, false)?;
        }
        Ok(())
    }

    /// Tracking is armed, and `populated` holds every page that may differ from zero.
    pub fn armed(&mut self, now: Instant, populated: &PageBitmap) {
        self.pending.union(populated);
        // It may have failed while the caller was at it; so in the methods below.
        if self.phase != Phase::Arming {
            return;
        }
        self.estimates.armed(now);
        self.pages.skipped = self.layout.pages().0 - populated.count().0;
        self.begin_round(now, Phase::Round);
    }

    /// `dirty` was written since the last harvest (or since arming).
    ///
    /// # Errors
    /// When the policy gives up.
    pub fn harvested(&mut self, now: Instant, dirty: &PageBitmap) -> Result<(), MigrationError> {
        self.pending.union(dirty);
        if self.phase != Phase::Harvesting {
            return Ok(());
        }
        self.estimates.harvested(now, dirty.count());
        self.left = self.pending.count().0;
        self.ask_policy(now, true)?;
        if self.phase == Phase::Harvesting {
            if self.left > 0 {
                self.begin_round(now, Phase::Round);
            } else {
                self.phase = Phase::Resting;
                self.policy_due = now.after(REST);
            }
        }
        Ok(())
    }

    /// `dirty` was harvested, but the harvest failed: it must not be lost.
    pub fn harvest_failed(&mut self, dirty: &PageBitmap) {
        self.pending.union(dirty);
    }

    /// The guest has stood still since `since`, and `dirty` was harvested after that.
    pub fn stopped(&mut self, since: Instant, now: Instant, dirty: &PageBitmap) {
        self.pending.union(dirty);
        if self.phase != Phase::Stopping {
            return;
        }
        self.marks.guest_stopped = since;
        self.marks.last_harvested = now;
        self.marks.placed = now;
        self.begin_round(now, Phase::LastRound);
        let round = self.round;
        self.say(now, Message::LastRound { round });
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
            Phase::Stopping => SourceStep::StopGuest,
            Phase::LastRound | Phase::Completing if self.verify && !self.digest_asked => {
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

    /// What data channel number `channel` must do; `batch` takes the pages.
    pub fn next_work(&mut self, now: Instant, channel: u16, batch: &mut Batch) -> Work {
        match self.phase {
            Phase::HandedOver | Phase::Completed | Phase::Failed => return Work::Close,
            Phase::Round | Phase::LastRound => {}
            _ => return Work::Wait,
        }
        let settled = self.all_is_placed();
        let channels = self.channels.len() as u64;
        let Some(own) = self.channels.get_mut(usize::from(channel)) else {
            return Work::Close;
        };
        if own.round_ended || !own.ledger.has_room() {
            return Work::Wait;
        }
        batch.round = self.round;
        batch.runs.clear();
        // Towards the end of a round the channels share what is left, so that all end together.
        let share = (self.left / (2 * channels)).max(SMALLEST_SHARE);
        let mut room = share.min(self.frame_pages);
        if self.cut_short {
            room = 0;
        }
        while room > 0
            && let Some(run) = self.pending.next_run(self.cursor, room)
        {
            self.pending.remove(run);
            self.cursor = run.end();
            self.left -= run.count.0;
            room -= run.count.0;
            batch.runs.push(run);
        }
        own.ledger.hand_out(&batch.runs);
        if settled {
            self.acked_at = now;
        }
        if !batch.runs.is_empty() {
            return Work::Pages;
        }
        own.round_ended = true;
        if self.channels.iter().all(|channel| channel.round_ended) {
            self.end_round();
        }
        Work::RoundEnd(batch.round)
    }

    /// Work of data channel number `channel` is on the wire.
    pub fn sent(&mut self, channel: u16, frame: SentFrame) {
        if let Some(channel) = self.channels.get_mut(usize::from(channel)) {
            channel.ledger.sent(frame.bytes);
        }
        self.pages.zero += frame.zero;
        self.pages.raw += frame.raw;
        self.page_bytes += frame.bytes;
        self.round_pages += frame.zero + frame.raw;
        self.round_bytes += frame.bytes.0;
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

    /// Adds the pages that are not known to be placed at the target: they go back to the
    /// dirty source when the migration fails.
    pub fn undelivered(&self, into: &mut PageBitmap) {
        into.union(&self.pending);
        for channel in &self.channels {
            channel.ledger.unplaced(into);
        }
    }

    /// Where the migration is.
    pub fn status(&self, now: Instant) -> SourceStatus {
        SourceStatus {
            round: self.round,
            left: PageCount(self.left),
            sent: self.page_bytes,
            dirty: self.estimates.dirty(),
            link: self.estimates.link.rate(),
            forecast: Forecast::of(&self.observe(now, false)).blackout,
            throttle: self.throttle,
            blackout: !matches!(
                self.phase,
                Phase::Greeting
                    | Phase::Arming
                    | Phase::Round
                    | Phase::Harvesting
                    | Phase::Resting
                    | Phase::Failed
            ),
        }
    }

    /// The report of a completed migration.
    pub fn report(&self) -> Report {
        let marks = &self.marks;
        // Without digests, what comes after the last acknowledgement is the news of it.
        let placed = if self.verify {
            marks.placed
        } else {
            marks.complete
        };
        Report {
            total: marks.running.since(marks.began),
            blackout: BlackoutParts {
                stop: marks.last_harvested.since(marks.guest_stopped),
                pages: placed.since(marks.last_harvested),
                verify: marks.complete.since(placed),
                state: marks.ready.since(marks.complete),
                hand_over: marks.running.since(marks.ready),
            },
            forecast: self.forecast,
            rounds: self.round,
            guest_bytes: self.layout.pages().bytes(),
            page_wire_bytes: self.page_bytes,
            state_bytes: self.state_bytes,
            pages: self.pages,
            dirty: self.estimates.dirty(),
            link: self.estimates.link.rate(),
            throttle_most: self.throttle_most,
            verified: self.digest_here.is_some() && self.digest_here == self.digest_there,
            target_cpu: self.target_cpu,
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

    fn begin_round(&mut self, now: Instant, phase: Phase) {
        self.phase = phase;
        self.round += 1;
        self.cursor = 0;
        self.left = self.pending.count().0;
        self.round_pages = 0;
        self.round_bytes = 0;
        self.policy_due = now.after(POLICY_TICK);
        for channel in &mut self.channels {
            channel.round_ended = false;
        }
        self.estimates.link.begin(now);
    }

    fn end_round(&mut self) {
        let (pages, bytes) = (PageCount(self.round_pages), ByteCount(self.round_bytes));
        self.estimates.round_sent(pages, bytes);
        self.phase = match self.phase {
            Phase::LastRound => Phase::Completing,
            _ if std::mem::take(&mut self.cut_short) => Phase::Stopping,
            _ => Phase::Harvesting,
        };
    }

    fn observe(&self, now: Instant, round_ended: bool) -> Observation {
        let in_flight = self
            .channels
            .iter()
            .map(|channel| channel.ledger.in_flight().0)
            .sum();
        Observation {
            now,
            elapsed: now.since(self.marks.began),
            round: self.round,
            round_ended,
            left: PageCount(self.left),
            in_flight: ByteCount(in_flight),
            bytes_per_page: self.estimates.bytes_per_page(),
            link: self.estimates.link.rate(),
            dirty: self.estimates.dirty(),
            fixed: self.fixed_blackout,
            harvested: self.estimates.last_harvest(),
            interval: self.estimates.last_interval(),
            throttled: self.throttle,
            placed: self.placed_bytes,
        }
    }

    fn ask_policy(&mut self, now: Instant, round_ended: bool) -> Result<(), MigrationError> {
        let seen = self.observe(now, round_ended);
        match self.policy.decide(&seen) {
            Decision::Continue => Ok(()),
            Decision::Throttle(share) => {
                self.throttle_asked = Some(share);
                Ok(())
            }
            Decision::Stop => {
                self.forecast = Forecast::of(&seen).blackout;
                if round_ended {
                    self.phase = Phase::Stopping;
                } else {
                    // The channels must say that the round is over: what they have not sent of
                    // it goes into the last one.
                    self.cut_short = true;
                }
                Ok(())
            }
            Decision::GiveUp(reason) => Err(MigrationError::NotConverging(reason)),
        }
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
