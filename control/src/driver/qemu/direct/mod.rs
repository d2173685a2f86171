//! Direct mode: an unmodified QEMU's guest, whose RAM the engine moves from outside.
//!
//! [`DirectQemu`] is the driver. QEMU's own migration carries the devices: its stream goes
//! through the engine's control connection as opaque device state, and the answers come back the
//! same way, so that one network path is enough.
//!
//! ```text
//!   engine: precopy of RAM ........................ rounds, guest runs
//!   pause()         QEMU's settings are changed, its `migrate` begins, guest stops (pre-switchover)
//!   engine: last pages, Complete
//!   save_devices()  migrate-continue; device state flows
//!                                                   target's QEMU loads, says SHUT (kept back)
//!                                                   journal: prepared
//!   engine: Ready
//!   relinquish()    SHUT to the source's QEMU, its `completed`
//!   journal: handed over (script cleared)
//!   engine: HandOver
//!                                                   journal: granted
//!                                                   run(): cont
//! ```
//!
//! # If a disk fails on the way
//!
//! A guest that QEMU has stopped because of an I/O error moves like one that was paused: it
//! arrives stopped, with its failed request, and is to be told `cont` once the disk is well. A
//! user who would rather have it stay says so (`abort_on_error`): then the migration ends, and
//! the guest stays as QEMU has left it, on the source.
//!
//! # Other hands
//!
//! Until `pause` QEMU's migration is everybody's, with the settings that others gave it. What others
//! begin meanwhile goes on, and ours ends with its name: see [`other_hands`](super::other_hands).
//!
//! # If pagelift is killed or hangs
//!
//! The agent in QEMU holds a rollback script from before anything is changed and runs it when
//! pagelift's connection ends: `migrate_cancel` brings the guest back from every state before the
//! commit, and QEMU's settings are put back. While the commit is under way the script has a `cont` as
//! well, since a QEMU that completed would stay stopped. That is safe as long as the target has
//! not been told that the guest is its own; so the script is cleared, with the agent's answer,
//! before the target is told, in the same step in which the agent records that the guest is handed
//! over. The stop itself is a lease: a sender that hangs for longer than the guest may stand still
//! is cut off from QEMU by the agent, which then runs the script as if it had died, and refuses the
//! record. Past the record the agent keeps QEMU from running the guest, as does the target's from
//! its own record on, until `pagelift settle` has asked both journals. What is left of either script
//! then puts QEMU's migration settings back. Dirty tracking ends by itself:
//! the kernel disarms it when the last reference to the userfaultfd goes. So does a throttle by
//! the agent; quotas of cgroups are put back by a guard process of their own.

mod disk_errors;
mod error;
mod hand_over;
mod memory;
mod options;
mod other_hands;
mod preamble;
mod source;
mod switchover_costs;
mod target;
mod watch;

pub use options::DirectQemu;
pub use source::{DirectSource, InspectedQemuSource};
pub use target::{DirectTarget, InspectedQemuTarget};

use crate::driver::{Driver, DriverError};

impl Driver for DirectQemu {
    type Source = InspectedQemuSource;
    type Target = InspectedQemuTarget;

    fn inspect_source(&self) -> Result<InspectedQemuSource, DriverError> {
        Ok(InspectedQemuSource::new(self)?)
    }

    fn inspect_target(&self) -> Result<InspectedQemuTarget, DriverError> {
        Ok(InspectedQemuTarget::new(self)?)
    }
}
