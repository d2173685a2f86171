//! The pagelift live-migration engine.
//!
//! It knows a guest as [regions of pages](memory::Layout) and a peer as connections that carry bytes,
//! and nothing of sockets, hypervisors or other people's file formats. An embedder makes an
//! [`Outgoing`] where its guest leaves and an [`Incoming`] where it arrives, and holds the [`Job`] that
//! each of them starts.
//!
//! | module | what it holds |
//! |---|---|
//! | [`job`] | the embedder's door |
//! | [`guest`] | what the engine asks of the program that runs the guest |
//! | [`ram`] | a guest's memory together with what tracks the writes to it |
//! | [`memory`] | the layout of a guest, sets of pages, reading and writing pages |
//! | [`dirty`] | where the set of written pages comes from |
//! | [`transport`] | what the engine asks of a transport: links, connections, buffers |
//! | [`units`] | page numbers, byte counts, rates, instants: no bare integers across modules |
//!
//! The other modules are the engine's inside. They are public for its own drivers, simulator, benches
//! and fuzz targets, are not shown here, and change without notice: `codec` (page content to bytes),
//! `wire` (frames and messages), `migration` (the source and target machines), `converge` (forecasts and
//! policies), `pipeline` (the threads), `sys` (typed kernel interfaces). `wire`, `migration` and
//! `converge` are sans-IO: they read no clock and touch no file descriptor, so that the whole protocol
//! runs in a simulator under virtual time.

#![cfg(target_os = "linux")]

#[doc(hidden)]
pub mod codec;
#[doc(hidden)]
pub mod converge;
pub mod dirty;
pub mod guest;
pub mod job;
pub mod memory;
#[doc(hidden)]
pub mod migration;
#[doc(hidden)]
pub mod pipeline;
pub mod plain_text;
pub mod ram;
#[doc(hidden)]
pub mod sys;
pub mod transport;
pub mod units;
#[doc(hidden)]
pub mod wire;

pub use codec::dedup::DedupSetting;
pub use codec::select::CpuLimit;
pub use codec::{Codec, CompressSetting};
pub use converge::{
    AtDeadline, ConvergenceStatus, Downtime, Interval, Limits, PolicyKind, SwitchoverCosts,
    ThrottleShare,
};
pub use guest::{SourceGuest, TargetGuest};
pub use job::{
    Completed, DeltaCacheSize, Ended, Event, Incoming, Job, JobEvents, Outgoing, StartError,
};
pub use memory::FileMemory;
pub use migration::{
    DowntimeParts, Failure, GuestLocation, MigrationError, PagesSent, Phase, Report, SourceStatus,
    TargetStatus,
};
pub use pipeline::{BasePages, CancelToken, Controls, Received, Settings};
pub use ram::{GuestRam, RamError};
pub use wire::{GuestProperty, PropertyKind, SessionId};
