//! The pagelift live-migration engine.
//!
//! It knows a guest as [regions of pages](memory::Layout), a peer as channels of
//! [frames](wire), and nothing of sockets, hypervisors or other people's file formats.
//!
//! | module | what it holds |
//! |---|---|
//! | [`units`] | page numbers, byte counts, rates, instants: no bare integers across modules |
//! | [`memory`] | the layout of a guest, sets of pages, reading and writing pages |
//! | [`dirty`] | where the set of written pages comes from |
//! | [`ram`] | both put together for a guest that is to leave |
//! | [`codec`] | how the content of pages becomes bytes on the wire |
//! | [`transport`] | the contract of a transport: links, connections, the memory they send from |
//! | [`wire`] | frames and messages: bytes to values and back, nothing else |
//! | [`migration`] | the source and target machines, who owns the guest, the report |
//! | [`converge`] | forecasts, and the policy that decides when to stop the guest |
//! | [`guest`] | what the engine asks of the program that runs the guest |
//! | [`pipeline`] | the threads that run a machine over a real link |
//! | [`sys`] | typed kernel interfaces |
//!
//! `wire`, `migration` and `converge` are sans-IO: they read no clock and touch no file
//! descriptor, so that the whole protocol runs in a simulator under virtual time.

#![cfg(target_os = "linux")]

pub mod codec;
pub mod converge;
pub mod dirty;
pub mod guest;
pub mod job;
pub mod memory;
pub mod migration;
pub mod pipeline;
pub mod ram;
pub mod sys;
pub mod transport;
pub mod units;
pub mod wire;

pub use guest::{SourceGuest, TargetGuest};
pub use job::{Completed, DeltaCacheSize, Ended, Event, Incoming, Job, Outgoing, StartError};
pub use memory::FileMemory;
pub use ram::{GuestRam, RamError};
