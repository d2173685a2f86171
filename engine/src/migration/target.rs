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

use std::collections::VecDeque;
use std::time::Duration;

use super::error::{GuestLocation, MigrationError};
use super::right::Granted;
use super::stages::TargetStages;
use super::watch::{PeerWatch, Watch};
use super::{DOUBT, HEARTBEAT, PEER_SILENCE};
use crate::codec::reference::Secret;
use crate::memory::{Layout, PageBitmap};
use crate::units::{ByteCount, Instant, PageCount, PageRange};
use crate::wire::{
    Accept, Ack, Encoding, Encodings, Fact, Hello, Message, OLDEST_VERSION, PagesBody,
    ReferenceTerms, Refuse, SessionId, StateChunk, VERSION,
};

/// Frames placed on a channel before they are acknowledged together.
const ACK_FRAMES: u64 = 4;

/// What a target needs to know before it begins.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// The guest's memory on this side.
    pub layout: Layout,
    /// What must be equal on both sides.
    pub facts: Vec<Fact>,
    /// Encodings of pages that this side reads: [`Encodings::readable`].
    pub reads: Encodings,
    /// On which terms references are taken, if they are.
    pub references: Option<ReferenceTerms>,
}

/// Whether fingerprints of the pages that were kept are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogueDemand {
    /// Not yet, but they may be.
    NotYet,
    /// Those of so many pages, from the first on.
    First(u64),
    /// Not, or not any more.
    None,
}

/// What the caller of [`Target::poll`] must do.
#[derive(Debug)]
pub enum TargetStep {
    /// Clear the memory: pages that the source does not send must read as zero. Then
    /// [`Target::prepared`].
    Prepare,
    /// Compute the digest of the memory; then [`Target::digested`].
    Digest,
    /// Wait until the device state is loaded; then [`Target::loaded`].
    Load,
    /// Run the guest; then [`Target::running`].
    Run(Granted),
    /// Nothing until something happens, or at latest until this time.
    Wait(Instant),
    /// The guest runs here.
    Running,
    /// It ended; [`Target::take_failure`] has the reason.
    Failed,
}

/// In the order they are passed through; `Failed` from any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
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

#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    joined: bool,
    /// Rounds the channel has ended; it carries pages of round `ended + 1`.
    ended: u32,
    placed_frames: u64,
    placed_bytes: u64,
    acked_frames: u64,
}

/// Where a migration is, for display.
#[derive(Clone, Copy, Debug)]
pub struct TargetStatus {
    /// Round whose pages are being placed, from 1.
    pub round: u32,
    /// Bytes of pages received on the wire so far.
    pub received: ByteCount,
    /// Whether the source is lost during the hand-over, and waited for.
    pub source_lost: bool,
    /// What receiving, decoding and placing took so far.
    pub stages: TargetStages,
}

/// The target machine.
#[derive(Debug)]
pub struct Target {
    config: TargetConfig,
    phase: Phase,
    hello: Option<Hello>,
    channels: Vec<Channel>,
    /// Rounds that every channel has ended.
    rounds_ended: u32,
    last_round: Option<u32>,
    /// Pages that the source sent and that are not as it thinks.
    missing: PageBitmap,
    missing_count: u64,
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
    doubt_ends: Option<Instant>,
    watch: PeerWatch,
    out: VecDeque<Message>,
    failure: Option<MigrationError>,
}

impl Target {
    /// Waits for a source's `Hello`.
    pub fn new(config: TargetConfig, now: Instant) -> Self {
        Self {
            missing: PageBitmap::new(config.layout.pages()),
            missing_count: 0,
            config,
            phase: Phase::Greeting,
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
            doubt_ends: None,
            watch: PeerWatch::new(now),
            out: VecDeque::new(),
            failure: None,
        }
    }

    // --- control -------------------------------------------------------------------------

    /// Takes a message from the control connection. A piece of the guest's device state is
    /// handed through.
    ///
    /// # Errors
    /// When the message ends the migration: an abort, a guest that does not fit, or a message
    /// that must not come now. The caller passes the error to [`fail`](Self::fail).
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
    ) -> Result<Option<StateChunk>, MigrationError> {
        self.heard(now);
        match (message, self.phase) {
            (Message::Ping, _) => self.say(now, Message::Pong),
            (Message::Pong, _) => {}
            (Message::Abort { code, reason }, _) => {
                self.kept_by_source = !self.owns_guest;
                return Err(MigrationError::PeerAborted { code, reason });
            }
            (Message::Hello(hello), Phase::Greeting) => self.greet(hello)?,
            (Message::LastRound { round }, Phase::Receiving) => {
                // On its own connection the news may come after all pages of that round.
                let over = round < self.rounds_ended.max(1);
                if self.last_round.replace(round).is_some() || over {
                    return Err(misbehaved("a last round that is over, or a second one"));
                }
                self.settle_rounds()?;
            }
            (Message::State(chunk), phase) if phase >= Phase::Receiving => {
                return Ok(Some(chunk));
            }
            (Message::HandOver, Phase::Ready) => {
                self.phase = Phase::Starting;
                self.owns_guest = true;
                self.granted = Some(Granted(()));
            }
            // The source did not get the answer, and asked again after a reattach.
            (Message::HandOver, Phase::Starting) => {}
            (Message::HandOver, Phase::Running) => self.say_running(now),
            (Message::Settled, Phase::Running) => self.settled = true,
            (message, phase) => {
                return Err(misbehaved(&format!("{:?} while {phase:?}", message.kind())));
            }
        }
        Ok(None)
    }

    /// Compares the source's guest with this side's, and refuses with every difference.
    fn greet(&mut self, hello: Hello) -> Result<(), MigrationError> {
        let mut reasons = Vec::new();
        if hello.common_version().is_none() {
            let (oldest, newest) = hello.versions;
            reasons.push(format!(
                "protocol version: the source speaks {oldest} to {newest}, the target \
                 {OLDEST_VERSION} to {VERSION}; install versions of pagelift at most one apart"
            ));
        }
        reasons.extend(layout_differences(&hello.layout, &self.config.layout));
        reasons.extend(fact_differences(&hello.facts, &self.config.facts));
        reasons.extend(unreadable(hello.needs.beyond(self.config.reads)));
        if !reasons.is_empty() {
            self.out.push_back(Message::Refuse(Refuse {
                reasons: reasons.clone(),
            }));
            return Err(MigrationError::Refused { reasons });
        }
        self.channels = vec![Channel::default(); usize::from(hello.channels)];
        self.hello = Some(hello);
        self.phase = Phase::Preparing;
        Ok(())
    }

    /// The memory reads as zeros: the source may send.
    pub fn prepared(&mut self, now: Instant) {
        if self.phase == Phase::Preparing
            && let Some(version) = self.hello.as_ref().and_then(Hello::common_version)
        {
            self.phase = Phase::Receiving;
            self.step_given = false;
            let accept = Accept {
                version,
                reads: self.config.reads,
                references: self.terms(),
            };
            self.say(now, Message::Accept(accept));
        }
    }

    /// Time has passed.
    ///
    /// # Errors
    /// When the source is silent for too long, or a lost hand-over is not asked for any more.
    pub fn handle_time(&mut self, now: Instant) -> Result<(), MigrationError> {
        if self.is_over() || matches!(self.phase, Phase::Greeting | Phase::Starting) {
            return Ok(());
        }
        if let Some(ends) = self.doubt_ends {
            if now >= ends {
                // At once, so that a source that asks in this very moment is not listened to.
                let why = "the source did not ask again in time";
                self.end(MigrationError::InDoubt(why.into()));
            }
            return Ok(());
        }
        match self.watch.look(now) {
            Watch::Nothing => {}
            Watch::Ping => self.say(now, Message::Ping),
            Watch::Dead if self.is_bound() => self.doubt_ends = Some(now.after(DOUBT)),
            Watch::Dead => {
                return Err(MigrationError::PeerSilent {
                    seconds: PEER_SILENCE.as_secs(),
                });
            }
        }
        Ok(())
    }

    /// A source that is known to be there: this side has no room for what it says.
    pub fn heard(&mut self, now: Instant) {
        self.watch.heard(now);
        self.doubt_ends = None;
    }

    /// What came over the control connection, or its loss, ends the migration with `error`;
    /// unless this side is bound and a source that reattaches can still settle it.
    pub fn control_failed(&mut self, now: Instant, error: MigrationError) {
        let said = matches!(
            error,
            MigrationError::PeerAborted { .. } | MigrationError::PeerMisbehaved(_)
        );
        if !self.is_bound() || (self.phase == Phase::Ready && said) {
            self.end(error);
        } else {
            self.doubt_ends.get_or_insert_with(|| now.after(DOUBT));
        }
    }

    /// Whether the control connection is lost and has not been replaced.
    pub fn is_lost(&self) -> bool {
        self.doubt_ends.is_some()
    }

    /// Whether this side may end because somebody asks for it. A target that is bound must wait
    /// for the source, but not for one that is lost.
    pub fn may_cancel(&self) -> bool {
        !self.is_over() && (!self.is_bound() || (self.phase == Phase::Ready && self.is_lost()))
    }

    /// Ends because somebody asks for it, if it [may](Self::may_cancel).
    pub fn cancel(&mut self) {
        if self.may_cancel() {
            let why = "cancelled before the source asked again";
            self.end(match self.is_bound() {
                true => MigrationError::InDoubt(why.into()),
                false => MigrationError::Cancelled,
            });
        }
    }

    /// Whether this side may not give up by itself any more: it has said that it is ready, and
    /// the source may have given up the right to run.
    pub fn is_bound(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Starting | Phase::Running)
    }

    /// Whether the guest runs here and the source knows it.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether `session` is the migration under way.
    pub fn is_session(&self, session: SessionId) -> bool {
        let hello = self.hello.as_ref();
        hello.is_some_and(|hello| hello.session == session)
    }

    /// Whether a new control connection for `session` may take the place of the lost one.
    pub fn accepts_reattach(&self, session: SessionId) -> bool {
        self.is_session(session) && self.is_bound()
    }

    /// A source reattached: says where the hand-over stands.
    pub fn reattached(&mut self, now: Instant) {
        self.heard(now);
        self.out.clear();
        match self.phase {
            Phase::Running => self.say_running(now),
            Phase::Ready => self.say(now, Message::Ready),
            _ => {}
        }
    }

    // --- data channels -------------------------------------------------------------------

    /// A data connection says which channel it is.
    ///
    /// # Errors
    /// When the channel is unknown, or joined already.
    pub fn join(&mut self, channel: u16) -> Result<(), MigrationError> {
        match self.channels.get_mut(usize::from(channel)) {
            Some(slot) if !slot.joined => slot.joined = true,
            _ => {
                return Err(misbehaved(&format!(
                    "data channel {channel} joined wrongly"
                )));
            }
        }
        Ok(())
    }

    /// Whether channel number `channel` may read its next frame: the barrier.
    pub fn may_read(&self, channel: u16) -> bool {
        self.channels
            .get(usize::from(channel))
            .is_none_or(|own| own.ended == self.rounds_ended)
    }

    /// Checks that the pages of a frame may be placed now.
    ///
    /// # Errors
    /// When they are of another round, or outside the guest's memory.
    pub fn admit(&self, channel: u16, body: &PagesBody<'_>) -> Result<(), MigrationError> {
        let own = self.channel(channel)?;
        if self.phase != Phase::Receiving || body.round != own.ended + 1 || !self.may_read(channel)
        {
            return Err(misbehaved(&format!(
                "pages of round {} at a wrong time",
                body.round
            )));
        }
        let takes_references = self.terms().is_some();
        for run in body.runs() {
            if !self.config.layout.contains(run.range) {
                let what = format!("pages {:?} outside the guest", run.range);
                return Err(misbehaved(&what));
            }
            if run.encoding == Encoding::Reference && !takes_references {
                return Err(misbehaved("references that were not agreed on"));
            }
        }
        Ok(())
    }

    /// The pages of a frame are in memory, but for `missing`, which the source is to be told
    /// before that the frame is [placed](Self::placed).
    pub fn made(&mut self, body: &PagesBody<'_>, missing: &[PageRange], now: Instant) {
        if self.missing_count == 0 && missing.is_empty() {
            return;
        }
        for run in body.runs() {
            // A delta for a page that is missing was made before the source knew: the page still
            // has to come whole.
            if run.encoding != Encoding::Delta {
                self.missing.remove(run.range);
            }
        }
        for run in missing {
            self.missing.insert(*run);
        }
        self.missing_count = self.missing.count().0;
        if !missing.is_empty() {
            // Before the acknowledgement: the source then knows that no answer is outstanding.
            self.say(now, Message::Missing(missing.to_vec()));
        }
    }

    /// A frame is dealt with. Acknowledges now and then; whether it did.
    pub fn placed(&mut self, channel: u16, bytes: ByteCount, now: Instant) -> bool {
        let Some(own) = self.channels.get_mut(usize::from(channel)) else {
            return false;
        };
        own.placed_frames += 1;
        own.placed_bytes += bytes.0;
        let due = own.placed_frames - own.acked_frames >= ACK_FRAMES;
        if due {
            self.acknowledge(channel, now);
        }
        due
    }

    /// The stages of a channel have worked.
    pub fn worked(&mut self, stages: TargetStages) {
        self.stages += stages;
    }

    /// Channel number `channel` has carried all its pages of `round`, in a frame of `bytes`.
    ///
    /// # Errors
    /// When that is not the round it is in.
    pub fn round_end(
        &mut self,
        channel: u16,
        round: u32,
        bytes: ByteCount,
        now: Instant,
    ) -> Result<(), MigrationError> {
        let own = self.channel(channel)?;
        let past_last = self.last_round.is_some_and(|last| round > last);
        if self.phase != Phase::Receiving || round != own.ended + 1 || past_last {
            return Err(misbehaved(&format!(
                "the end of round {round} at a wrong time"
            )));
        }
        let own = &mut self.channels[usize::from(channel)];
        own.ended = round;
        own.placed_frames += 1;
        own.placed_bytes += bytes.0;
        self.acknowledge(channel, now);
        if self.channels.iter().all(|channel| channel.ended == round) {
            self.rounds_ended = round;
            self.settle_rounds()?;
        }
        Ok(())
    }

    /// On which terms references are taken: if this side offers and the source asked.
    fn terms(&self) -> Option<ReferenceTerms> {
        let most = self.hello.as_ref()?.references?;
        let offered = self.config.references?;
        Some(ReferenceTerms {
            kept_pages: offered.kept_pages.min(most),
            ..offered
        })
    }

    /// Makes the identities of this migration's references, if there are any.
    pub fn reference_secret(&self) -> Option<Secret> {
        let session = self.hello.as_ref()?.session;
        Some(Secret::new(session.0, self.terms()?.nonce))
    }

    /// Whether to send fingerprints of pages that were kept.
    pub fn catalogue_demand(&self) -> CatalogueDemand {
        match self.phase {
            Phase::Greeting | Phase::Preparing => CatalogueDemand::NotYet,
            Phase::Receiving if self.last_round.is_none() => {
                self.terms().map_or(CatalogueDemand::None, |terms| {
                    CatalogueDemand::First(terms.kept_pages)
                })
            }
            _ => CatalogueDemand::None,
        }
    }

    /// Pages that the source sent and that are not there.
    pub fn missing_pages(&self) -> PageCount {
        PageCount(self.missing_count)
    }

    fn channel(&self, channel: u16) -> Result<&Channel, MigrationError> {
        self.channels
            .get(usize::from(channel))
            .filter(|own| own.joined)
            .ok_or_else(|| misbehaved("data before its channel joined"))
    }

    fn acknowledge(&mut self, channel: u16, now: Instant) {
        let own = &mut self.channels[usize::from(channel)];
        own.acked_frames = own.placed_frames;
        let ack = Ack {
            channel,
            frames: own.placed_frames,
            bytes: own.placed_bytes,
        };
        self.say(now, Message::Ack(ack));
    }

    /// After the last round, goes on to the digest.
    fn settle_rounds(&mut self) -> Result<(), MigrationError> {
        if self.phase == Phase::Receiving && self.last_round == Some(self.rounds_ended) {
            if self.missing_count > 0 {
                let count = self.missing_count;
                return Err(misbehaved(&format!(
                    "it ended the last round, and {count} pages are missing"
                )));
            }
            self.phase = Phase::Digesting;
            self.step_given = false;
        }
        Ok(())
    }

    // --- what to do ----------------------------------------------------------------------

    /// What the caller must do next.
    pub fn poll(&mut self, now: Instant) -> TargetStep {
        match self.phase {
            Phase::Digesting if !self.verify() => self.complete(now, None),
            _ => {}
        }
        let step = match self.phase {
            Phase::Preparing => TargetStep::Prepare,
            Phase::Digesting => TargetStep::Digest,
            Phase::Loading => TargetStep::Load,
            Phase::Running => return TargetStep::Running,
            Phase::Failed => return TargetStep::Failed,
            Phase::Starting => match self.granted.take() {
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
        if self.phase == Phase::Digesting {
            self.complete(now, Some(digest));
        }
    }

    fn complete(&mut self, now: Instant, digest: Option<u128>) {
        self.phase = Phase::Loading;
        self.step_given = false;
        self.say(now, Message::Complete { digest });
    }

    /// The device state is loaded: the guest could run.
    pub fn loaded(&mut self, now: Instant) {
        if self.phase == Phase::Loading {
            self.phase = Phase::Ready;
            self.promised = true;
            self.say(now, Message::Ready);
        }
    }

    /// The guest runs here; this process has used `cpu` so far.
    pub fn running(&mut self, now: Instant, cpu: Duration) {
        if self.phase == Phase::Starting {
            self.phase = Phase::Running;
            self.target_cpu_us = u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX);
            self.say_running(now);
        }
    }

    /// A message for the control connection.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.out.pop_front()
    }

    /// Something beside the control connection failed, which ends the migration unless this
    /// side is bound. The first reason is kept.
    pub fn fail(&mut self, error: MigrationError) {
        if !self.is_bound() {
            self.end(error);
        }
    }

    /// Ends the migration, unless the guest runs.
    pub fn end(&mut self, error: MigrationError) {
        if self.phase != Phase::Running {
            self.phase = Phase::Failed;
            self.failure.get_or_insert(error);
        }
    }

    /// Why it failed, once.
    pub fn take_failure(&mut self) -> Option<MigrationError> {
        self.failure.take()
    }

    /// Whether there is nothing more to do.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Failed)
    }

    /// Where the guest is if the migration fails now, as far as this side knows.
    pub fn guest_location(&self) -> GuestLocation {
        if self.owns_guest {
            GuestLocation::Target
        } else if self.promised && !self.kept_by_source {
            GuestLocation::Unknown
        } else {
            GuestLocation::Source
        }
    }

    /// Whether the source has given the guest to this side.
    pub fn owns_guest(&self) -> bool {
        self.owns_guest
    }

    /// Whether every page of the last round is in memory.
    pub fn has_all_pages(&self) -> bool {
        self.phase >= Phase::Digesting
    }

    /// Whether the handshake asked for digests.
    pub fn verify(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.verify)
    }

    /// Data channels the source opens; 0 before the handshake.
    pub fn channel_count(&self) -> u16 {
        u16::try_from(self.channels.len()).unwrap_or(u16::MAX)
    }

    /// Where the migration is.
    pub fn status(&self) -> TargetStatus {
        let received = self
            .channels
            .iter()
            .map(|channel| channel.placed_bytes)
            .sum();
        TargetStatus {
            round: self.rounds_ended + 1,
            received: ByteCount(received),
            source_lost: self.is_lost(),
            stages: self.stages,
        }
    }

    fn say(&mut self, now: Instant, message: Message) {
        self.watch.said(now);
        self.out.push_back(message);
    }

    fn say_running(&mut self, now: Instant) {
        let cpu_us = self.target_cpu_us;
        self.say(now, Message::Running { cpu_us });
    }
}

fn misbehaved(what: &str) -> MigrationError {
    MigrationError::PeerMisbehaved(what.to_owned())
}

/// How the memory of the two sides differs, in words.
fn layout_differences(source: &Layout, target: &Layout) -> Vec<String> {
    let describe = |layout: &Layout| {
        let regions = layout.regions().iter();
        regions
            .map(|r| format!("{} of {} bytes", r.name, r.pages.bytes().0))
            .collect::<Vec<_>>()
    };
    let (source, target) = (describe(source), describe(target));
    if source == target {
        return Vec::new();
    }
    vec![format!(
        "memory layout: source [{}], target [{}]; start the target with the same memory",
        source.join(", "),
        target.join(", ")
    )]
}

/// What the source would send that this side cannot read, in words.
fn unreadable(missing: Encodings) -> Option<String> {
    let way_out = "send with --compress auto";
    if missing.is_empty() {
        None
    } else if missing == Encodings::none().with(Encoding::Zstd) {
        Some(format!(
            "compression: the source packs pages with zstd, and the target is a build without \
             it; {way_out}, or build the target's pagelift with its feature `zstd`"
        ))
    } else {
        let numbers: Vec<_> = (0..32u32)
            .filter(|bit| missing.0 >> bit & 1 == 1)
            .map(|bit| bit.to_string())
            .collect();
        Some(format!(
            "compression: the source sends pages in encodings that the target cannot read \
             (number {}); {way_out}, or install the same version of pagelift on both sides",
            numbers.join(", ")
        ))
    }
}

/// Which facts about the guest differ, in words.
fn fact_differences(source: &[Fact], target: &[Fact]) -> Vec<String> {
    let value = |facts: &[Fact], name: &str| {
        facts
            .iter()
            .find(|fact| fact.name == name)
            .map(|fact| fact.value.clone())
    };
    let mut names: Vec<&str> = source
        .iter()
        .chain(target)
        .map(|fact| fact.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    let mut differences = Vec::new();
    for name in names {
        let (here, there) = (value(source, name), value(target, name));
        if here != there {
            let word = |value: Option<String>| value.unwrap_or_else(|| "none".into());
            differences.push(format!(
                "{name}: source {}, target {}",
                word(here),
                word(there)
            ));
        }
    }
    differences
}
