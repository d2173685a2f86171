//! The protocol: a [`Source`] and a [`Target`] machine, and what they end in.
//!
//! Both are sans-IO: messages, acknowledgements, harvested pages and the time go in through
//! methods, and what to do next comes out of [`Source::poll`] and [`Target::poll`]. They hold no
//! file descriptor, thread or clock, so the [pipeline](crate::pipeline) can run them over real
//! connections and the simulator under virtual time, with the same code.
//!
//! ```text
//!   Source                                   Target
//!   Hello  ------------------------------->  compares guests
//!          <-------------------------------  Accept | Refuse
//!          <-------------------------------  Catalogue.. (of pages it kept; at any time)
//!   arm, harvest; per round:
//!     Pages.. on any data channel  ------->  place
//!     RoundEnd on every one        ------->  barrier: the next round waits for all
//!          <-------------------------------  Missing (before the Ack: what a reference named
//!                                             is not there; goes again in the next round)
//!          <-------------------------------  Ack (windowed, per channel), Waited
//!   stop the guest, last harvest
//!   LastRound, Pages.., RoundEnd   ------->  place
//!          <-------------------------------  Complete (with the digest, in verify mode)
//!   State..                        ------->  load
//!          <-------------------------------  Ready
//!   give up the right to run
//!   HandOver                       ------->  run
//!          <-------------------------------  Running
//!   Settled                        ------->  nobody will ask any more
//! ```
//!
//! From `Ready` on the target is bound: only the source's word, or [`DOUBT`], ends the migration
//! there, because the source may have given up the right to run already.

mod error;
mod heat;
mod ledger;
mod report;
mod right;
mod source;
mod stages;
mod target;
mod volume;
mod watch;

pub use error::{Failure, GuestLocation, MigrationError};
pub use report::{BlackoutParts, PagesSent, ReferenceReport, Report};
pub use right::{Granted, HandedOver, RunRight, StoppedRight, TargetReady};
pub use source::{
    Batch, References, SentFrame, Source, SourceConfig, SourceStatus, SourceStep, Work,
};
pub use stages::{SourceStages, StageTime, TargetStages};
pub use target::{CatalogueDemand, Target, TargetConfig, TargetStatus, TargetStep};
pub use volume::DataBytes;

use std::time::Duration;

/// How often a side that has nothing else to say asks whether the other is there.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Silence after which the other side counts as dead.
pub const PEER_SILENCE: Duration = Duration::from_secs(5);

/// How long a source that has handed over tries to reach its target again.
pub const REATTACH: Duration = Duration::from_secs(8);

/// How long a target waits for a lost source to ask where the hand-over stands: before it gives
/// up if it is ready, before it goes its way if the guest runs.
///
/// A source notices the loss after [`PEER_SILENCE`], tries for [`REATTACH`], and its last try
/// may take as long as a connection attempt does (5 s on TCP).
pub const DOUBT: Duration = Duration::from_secs(20);

const _: () = assert!(DOUBT.as_secs() > PEER_SILENCE.as_secs() + REATTACH.as_secs() + 5);

/// How long pages may be under way without any acknowledgement.
///
/// The control connection may be well while a data connection's packets go nowhere. Long enough
/// for 64 channels to share 2 MB/s: each is acknowledged every four frames of 256 KiB.
pub const DATA_SILENCE: Duration = Duration::from_secs(30);
