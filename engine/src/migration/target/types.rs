//! What goes into a [`Target`](super::Target) and what comes out of it.

use crate::memory::{KnownFile, Layout, PersistentFile};
use crate::migration::ownership::Granted;
use crate::migration::phase::Phase;
use crate::migration::stages::TargetStages;
use crate::units::{ByteCount, Instant};
use crate::wire::{DedupTerms, Encodings, GuestProperty};

/// What a target needs to know before it begins.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// The guest's memory on this side.
    pub layout: Layout,
    /// The files that it lies in.
    pub files: Vec<KnownFile>,
    /// Files that the guest keeps data in, which must be the source's.
    pub persistent: Vec<PersistentFile>,
    /// Guest properties: what must be equal on both sides.
    pub properties: Vec<GuestProperty>,
    /// Encodings of pages that this side reads: [`Encodings::readable`].
    pub reads: Encodings,
    /// On which terms references are taken, if they are.
    pub dedup: Option<DedupTerms>,
}

/// Whether fingerprints of the base pages are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FingerprintDemand {
    /// Not yet, but they may be.
    NotYet,
    /// Those of so many pages, from the first on.
    First(u64),
    /// Not, or not any more.
    None,
}

/// What the caller of [`Target::poll`](super::Target::poll) must do.
#[derive(Debug)]
pub enum TargetStep {
    /// Mark these files, by their place in [`TargetConfig::files`]; then
    /// [`Target::marks_placed`](super::Target::marks_placed).
    PlaceMarks(Vec<usize>),
    /// Take the marks back; then [`Target::marks_taken_back`](super::Target::marks_taken_back).
    TakeMarksBack,
    /// Clear the memory: pages that the source does not send must read as zero. Then
    /// [`Target::prepared`](super::Target::prepared).
    Prepare,
    /// Compute the digest of the memory; then [`Target::digested`](super::Target::digested).
    Digest,
    /// Wait until the device state is loaded; then [`Target::loaded`](super::Target::loaded).
    Load,
    /// Run the guest; then [`Target::running`](super::Target::running).
    Run(Granted),
    /// Nothing until something happens, or at latest until this time.
    Wait(Instant),
    /// The guest runs here.
    Running,
    /// It ended; [`Target::take_failure`](super::Target::take_failure) has the reason.
    Failed,
}

/// Where a migration is, for display.
#[derive(Clone, Copy, Debug)]
pub struct TargetStatus {
    /// Where it is.
    pub phase: Phase,
    /// Round whose pages are being placed, from 1.
    pub round: u32,
    /// Bytes of pages received on the wire so far.
    pub received: ByteCount,
    /// Whether the source is lost during the hand-over, and waited for.
    pub source_lost: bool,
    /// What receiving, decoding and placing took so far.
    pub stages: TargetStages,
}
