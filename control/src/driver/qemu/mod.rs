//! The QEMU driver: what guest this is, whether it can move, and the steps of its hand-over.
//!
//! In direct mode the engine moves the RAM, and QEMU moves its devices by its own migration, told
//! to leave the RAM alone (`x-ignore-shared`). The life of a hand-over, with the types that carry
//! it; each step consumes the one before:
//!
//! | source | target |
//! |---|---|
//! | [`SourceQemu`] looked at, nothing changed | [`TargetQemu`] looked at, nothing changed |
//! | [`PlannedSource`] what to change is known | |
//! | [`PreparedSource`] disks are ready, RAM is sent | [`HeldTarget`] will not start by itself |
//! | [`SwitchingSource`] QEMU's migration runs | [`LoadingTarget`] takes QEMU's stream |
//! | [`PausedSource`] guest stopped, RAM final | |
//! | [`HandingOver`] device state flows | [`LoadedTarget`] complete, but stopped |
//! | [`CommittedSource`] cannot run any more | [`RunningTarget`] runs |
//!
//! Between the two the [`relay`] passes QEMU's own stream through as opaque bytes, and keeps back
//! the one message that commits.

pub mod backend;
pub mod command_line;
pub mod direct;
mod disks;
mod guest_abi;
pub mod held;
pub mod inspect;
pub mod maps;
pub mod migration;
pub mod other_hands;
mod persistent;
pub mod preflight;
pub mod ramblock;
pub mod relay;
pub mod return_path;
mod run_state;
pub mod settings;
pub mod source;
pub mod target;
pub mod vcpus;

pub use disks::DiskError;
pub use inspect::{DeviceBlock, Guest, InspectError, QemuVersion, RamBlock};
pub use migration::QemuMigrationError;
pub use persistent::PersistentMemory;
pub use source::{
    CommitError, CommittedSource, HandingOver, PausedSource, PlannedSource, PreparedSource,
    SourceFailure, SourceQemu, SwitchingSource,
};
pub use target::{HeldTarget, LoadedTarget, LoadingTarget, RunningTarget, TargetQemu};
pub use vcpus::vcpu_threads;
