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
//!          <-------------------------------  Fingerprints.. (of base pages; at any time)
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
//!   relinquish the guest
//!   HandOver                       ------->  run
//!          <-------------------------------  Running
//!   Settled                        ------->  nobody will ask any more
//! ```
//!
//! The end is a two-phase commit. From `Ready` on the target is prepared: only the source's word, or
//! [`IN_DOUBT`], ends the migration there, since the source may have relinquished the guest already.
//! A side whose peer answers and does not go on waits for [`DECISION`].

mod counters;
mod downtime_limit;
mod error;
mod liveness;
mod ownership;
mod peer;
mod phase;
mod report;
pub mod settle;
mod source;
mod stages;
mod target;

pub use counters::{EncodedBytes, PagesSent, SentFrame};
pub use downtime_limit::DowntimeLimit;
pub use error::{Failure, GuestLocation, MigrationError};
pub use ownership::{Granted, Ownership, Relinquished, StoppedOwnership, TargetReady};
pub use phase::Phase;
pub use report::{DedupReport, DowntimeParts, Report};
pub use source::{Batch, DedupContext, Source, SourceConfig, SourceStatus, SourceStep, Work};
pub use stages::{SourceStages, StageTime, TargetStages};
pub use target::{FingerprintDemand, Misfit, Target, TargetConfig, TargetStatus, TargetStep};

use std::time::Duration;

/// How long a target that answers may take to accept a guest: it clears its memory meanwhile, and
/// nothing says how far it is.
pub const HANDSHAKE: Duration = Duration::from_secs(600);

/// How often a side that has nothing else to send asks whether the other is there.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Silence after which the other side counts as dead.
pub const PEER_SILENCE: Duration = Duration::from_secs(5);

/// How long a source that has handed over tries to reach its target again.
pub const REATTACH: Duration = Duration::from_secs(8);

/// In-doubt limit: how long a prepared target waits for a lost source to ask where the hand-over
/// stands before it ends without knowing, and one that runs the guest before it goes its way.
///
/// A source notices the loss after [`PEER_SILENCE`], tries for [`REATTACH`], and its last try
/// may take as long as a connection attempt does (5 s on TCP).
pub const IN_DOUBT: Duration = Duration::from_secs(20);

/// How long a side of the commit waits for the other one, which answers and does not go on: a source
/// for the guest to run there, a prepared target for the source's word. Longer than any one step
/// of a hypervisor's may take.
pub const DECISION: Duration = Duration::from_secs(60);

/// How long the same wait lasts once somebody asks for the end.
pub const DECISION_IF_CANCELLED: Duration = Duration::from_secs(2);

const _: () = assert!(IN_DOUBT.as_secs() > PEER_SILENCE.as_secs() + REATTACH.as_secs() + 5);

/// How long pages may be in flight without a further one being acknowledged.
///
/// The control connection may be well while a data connection's packets go nowhere. Long enough
/// for 64 channels to share 2 MB/s: each is acknowledged every four frames of 256 KiB.
pub const DATA_SILENCE: Duration = Duration::from_secs(30);
