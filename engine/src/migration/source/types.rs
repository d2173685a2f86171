//! What goes into a [`Source`](super::Source) and what comes out of it.

use std::time::Duration;

use crate::converge::{ConvergenceStatus, Interval, Policy, ThrottleShare};
use crate::memory::{FileIdentity, Layout, Mark};
use crate::migration::downtime_limit::DowntimeLimit;
use crate::migration::ownership::TargetReady;
use crate::migration::phase::Phase;
use crate::migration::stages::SourceStages;
use crate::units::{ByteCount, Instant, PageCount, PageIndex, PageRange, Rate};
use crate::wire::{Encodings, GuestProperty, SessionId};

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
    /// Send references to what the target has, and take the fingerprints of at most so many
    /// base pages ([`FingerprintIndex::footprint`](crate::codec::dedup::FingerprintIndex::footprint)
    /// says what they take).
    pub dedup: Option<u64>,
    /// The guest's memory.
    pub layout: Layout,
    /// The files that it lies in, as they are shown in this migration.
    pub files: Vec<FileIdentity>,
    /// Files that the guest keeps data in, which the target must have as well.
    pub persistent: Vec<(String, FileIdentity)>,
    /// Guest properties: what must be equal on both sides.
    pub properties: Vec<GuestProperty>,
    /// Encodings of pages that the target must read, next to the basic ones.
    pub needs: Encodings,
    /// How long the guest may stand still before it is handed over.
    pub downtime_limit: DowntimeLimit,
    /// When to stop the guest, or to end the migration.
    pub policy: Box<dyn Policy>,
}

/// What the caller of [`Source::poll`](super::Source::poll) must do.
#[derive(Debug)]
pub enum SourceStep {
    /// Look whether one of these marks is in the guest's files; then
    /// [`Source::marks_looked_for`](super::Source::marks_looked_for).
    LookForMarks(Vec<Mark>),
    /// Start dirty tracking, find the populated pages; then
    /// [`Source::armed`](super::Source::armed).
    Arm,
    /// Harvest the dirty pages; then [`Source::harvested`](super::Source::harvested).
    Harvest,
    /// The same while the round goes on; then [`Source::harvested_within`](super::Source::harvested_within).
    HarvestWithin,
    /// Keep the guest from running for this share of its time from now on.
    Throttle(ThrottleShare),
    /// Stop the guest, harvest for the last time; then [`Source::stopped`](super::Source::stopped).
    StopGuest,
    /// Compute the digest of the (now still) memory; then
    /// [`Source::digested`](super::Source::digested).
    Digest,
    /// Send the device state; then [`Source::state_sent`](super::Source::state_sent).
    SaveState,
    /// Make sure that the guest never runs here again; then
    /// [`Source::relinquished`](super::Source::relinquished).
    HandOver(TargetReady),
    /// Nothing until something happens, or at latest until this time.
    Wait(Instant),
    /// The guest runs on the target.
    Completed,
    /// It ended; [`Source::take_failure`](super::Source::take_failure) has the reason.
    Failed,
}

/// What a data channel must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Work {
    /// Send the pages of the batch; then [`Source::sent`](super::Source::sent).
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
    /// Whether references may be sent: not in the last round, which waits for no answers.
    pub may_refer: bool,
    /// At most [`MAX_FRAME_PAGES`](crate::wire::MAX_FRAME_PAGES) pages in ascending runs.
    pub runs: Vec<PageRange>,
    /// Those of the pages, in order, that the target misses: they go whole.
    pub whole: Vec<PageIndex>,
}

/// Where a running migration is, for display.
#[derive(Clone, Copy, Debug)]
pub struct SourceStatus {
    /// Where it is.
    pub phase: Phase,
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
    /// The downtime if the guest were stopped now.
    pub forecast: Option<Interval>,
    /// The downtime that is allowed by now.
    pub limit: Duration,
    /// Why it is not done yet, as of the end of the last round; its text is for people.
    pub convergence: Option<ConvergenceStatus>,
    /// Whether it is stopped although the forecast is longer than is allowed.
    pub forced: bool,
    /// Share of its time that the guest is kept from running.
    pub throttle: ThrottleShare,
    /// How long the stages have worked and waited so far.
    pub stages: SourceStages,
}
