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
//!   arm, harvest; per round:
//!     Pages.. on any data channel  ------->  place
//!     RoundEnd on every one        ------->  barrier: the next round waits for all
//!          <-------------------------------  Ack (windowed, per channel)
//!   stop the guest, last harvest
//!   LastRound, Pages.., RoundEnd   ------->  place
//!          <-------------------------------  Complete (with the digest, in verify mode)
//!   State..                        ------->  load
//!          <-------------------------------  Ready
//!   give up the right to run
//!   HandOver                       ------->  run
//!          <-------------------------------  Running
//! ```

mod error;
mod ledger;
mod report;
mod right;
mod source;
mod target;

pub use error::{Failure, GuestLocation, MigrationError};
pub use report::{BlackoutParts, PagesSent, Report};
pub use right::{Granted, HandedOver, RunRight, StoppedRight, TargetReady};
pub use source::{Batch, SentFrame, Source, SourceConfig, SourceStatus, SourceStep, Work};
pub use target::{Target, TargetConfig, TargetStatus, TargetStep};

use std::time::Duration;

/// How often a side that has nothing else to say asks whether the other is there.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Silence after which the other side counts as dead.
pub const PEER_SILENCE: Duration = Duration::from_secs(5);
