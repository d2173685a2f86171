//! Drivers: how a hypervisor's guest is moved.
//!
//! A [`Driver`] gives the engine what it needs of a hypervisor, in two steps on each side. The
//! first looks and refuses, with all reasons at once, and changes nothing; the second prepares,
//! and gives the guest's RAM and the guest as the engine sees it. What a driver can do and others
//! cannot is an option of that driver's own type, and refused there.
//!
//! ```text
//!   source                                     target
//!   inspect_source()   refused, or known       inspect_target()   refused, or known
//!     properties()          to be equal on both       properties()
//!     prepare()        RAM, LeavingGuest         prepare()        memory, TargetGuest
//!              engine: moves the RAM, stops the guest, hands it over
//!   finish()           all is put back         finish()           all is put back
//! ```
//!
//! The steps are those of libvirt's migration protocol, version 3: inspecting is Begin and the
//! first half of Prepare, preparing is its second half and the beginning of Perform. Finish and
//! Confirm are the engine's hand-over.
//!
//! Cleaning up needs no call of its own: the engine ends a migration with the guest's `finish`,
//! and what was prepared and never moved puts everything back when it is dropped.
//!
//! | module | hypervisor |
//! |---|---|
//! | [`qemu`] | QEMU, its RAM moved by the engine from outside (direct mode) |

pub mod qemu;
mod refusal;
mod side;

use std::error::Error;
use std::fmt::Debug;
use std::sync::Arc;

use pagelift_engine::guest::{SourceGuest, TargetGuest};
use pagelift_engine::memory::{FileMemory, PersistentFile};
use pagelift_engine::ram::GuestRam;
use pagelift_engine::wire::GuestProperty;

pub use refusal::Refusal;
pub use side::Side;

use crate::throttle::VcpuThrottled;

/// A hypervisor process whose guest is to leave, or which is to take one.
pub trait Driver: Debug {
    /// A guest that was looked at and can leave.
    type Source: InspectedSource;
    /// A hypervisor that was looked at and can take a guest.
    type Target: InspectedTarget;

    /// Looks at the guest that is to leave. Changes nothing.
    ///
    /// # Errors
    /// [`DriverError::Refused`] with every reason why the guest cannot be moved safely, or
    /// [`DriverError::Failed`] with what kept the driver from looking.
    fn inspect_source(&self) -> Result<Self::Source, DriverError>;

    /// Looks at the hypervisor that is to take a guest. Changes nothing.
    ///
    /// # Errors
    /// As [`inspect_source`](Self::inspect_source).
    fn inspect_target(&self) -> Result<Self::Target, DriverError>;
}

/// A guest that can be moved, as far as can be known by looking.
pub trait InspectedSource: Debug {
    /// The guest.
    type Guest: LeavingGuest + 'static;

    /// What must be equal on both sides.
    fn properties(&self) -> Vec<GuestProperty>;

    /// Prepares the guest. Nothing of it is changed but the settings of its hypervisor that a
    /// migration needs; they are put back at the end, even if this process is killed.
    ///
    /// # Errors
    /// When the guest cannot be prepared; it is as it was then.
    fn prepare(self) -> Result<PreparedSource<Self::Guest>, DriverError>;
}

/// A hypervisor that can take a guest, as far as can be known by looking.
pub trait InspectedTarget: Debug {
    /// The guest to come.
    type Guest: TargetGuest + 'static;

    /// What must be equal on both sides.
    fn properties(&self) -> Vec<GuestProperty>;

    /// Prepares to take a guest: one that arrives does not start by itself.
    ///
    /// # Errors
    /// When it cannot; the hypervisor is as it was then.
    fn prepare(self) -> Result<PreparedTarget<Self::Guest>, DriverError>;
}

/// A guest that is ready to be moved.
#[derive(Debug)]
pub struct PreparedSource<G> {
    /// Its RAM, with what tracks the writes to it.
    pub ram: GuestRam,
    /// Files that it keeps data in, which the target must have as well.
    pub persistent: Vec<PersistentFile>,
    /// The guest. Dropped before the hand-over, it is as it was before it was prepared.
    pub guest: G,
}

/// A hypervisor that is ready to take a guest.
#[derive(Debug)]
pub struct PreparedTarget<G> {
    /// The RAM of the guest to come: files that the hypervisor has mapped.
    pub memory: Arc<FileMemory>,
    /// Files that the guest keeps data in, which must be the source's.
    pub persistent: Vec<PersistentFile>,
    /// The guest to come.
    pub guest: G,
}

/// The guest on the source, with what a report says of it.
pub trait LeavingGuest: SourceGuest {
    /// What throttles it when it must be, in words: "the agent in QEMU", or cgroups by their
    /// paths.
    fn throttled_by(&self) -> String;

    /// How each vCPU was throttled so far, in the order of their index.
    fn throttled(&self) -> Vec<VcpuThrottled>;
}

/// Why a guest was not made ready to move. It is as it was, unless its hypervisor has ended.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The hypervisor ended meanwhile, and its guest with it.
    #[error(transparent)]
    Ended(Box<dyn Error + Send + Sync>),
    /// It cannot end well.
    #[error("{what}:{}", list(.refusals))]
    Refused {
        /// What cannot be done: "this guest cannot be moved".
        what: &'static str,
        /// Every reason why, each with the way out.
        refusals: Vec<Refusal>,
    },
    /// Something that it takes failed.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

/// The refusals, one a line, for the end of a message.
fn list(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(|refusal| format!("\n  - {refusal}"))
        .collect()
}
