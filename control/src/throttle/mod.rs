//! Slowing a guest down, so that it writes less than the link carries.
//!
//! What is to be slowed, and how much, is a [`ThrottlePlan`]; who does it is a [`Throttle`]:
//!
//! | actuator | how | per vCPU | pagelift killed | pagelift hangs |
//! |---|---|---|---|---|
//! | [`AgentThrottle`] | stops the vCPUs' threads | yes | released at once | the lease ends |
//! | [`CgroupThrottle`] | quotas, v2 or v1 | if each has a group | by a guard process | stays |
//! | [`CallbackThrottle`] | the embedder's own | as it likes | the guest ends too | stays |
//! | [`QemuParametersThrottle`] | QEMU's auto-converge, in a migration of its own | no | stays | stays |
//! | [`NoThrottle`] | not at all | | | |
//!
//! [`QemuDirtyLimit`] is none of them: it limits what a vCPU writes, not when it runs.
//!
//! Shares are of the time, in permille, in which a vCPU is kept from running. This module
//! decides nothing: when to slow whom is the policy's.

mod agent;
mod callback;
mod cgroup;
mod plan;
mod qemu_dirty_limit;
mod qemu_parameters;

use std::error::Error;
use std::io;
use std::path::PathBuf;

pub use agent::AgentThrottle;
pub use callback::{Callback, CallbackThrottle};
pub use cgroup::{CgroupMounts, CgroupThrottle};
pub use plan::{Permille, Shares, ThrottlePlan};
pub use qemu_dirty_limit::QemuDirtyLimit;
pub use qemu_parameters::QemuParametersThrottle;

use crate::agent_client::AgentError;
use crate::qmp::QmpError;

/// Slows a guest down.
///
/// A plan is in force until the next one or until [`release`](Self::release). Plans may be
/// applied at every tick of a control loop, and must be where an actuator keeps a lease: one
/// that is not repeated in time ends by itself.
pub trait Throttle: Send {
    /// Puts `plan` in the place of the one before.
    ///
    /// # Errors
    /// Says why it is not in force. What is in force then is for the actuator to say; a
    /// release ends it in any case.
    fn apply(&mut self, plan: &ThrottlePlan) -> Result<(), ThrottleError>;

    /// Lets the guest run at full speed. Without a throttle it does nothing.
    fn release(&mut self);
}

/// Why a guest is not throttled as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThrottleError {
    /// The agent did not do it.
    #[error("throttling by the agent: {0}")]
    Agent(#[from] AgentError),
    /// A plan for another number of vCPUs.
    #[error(
        "the throttle plan is for {plan} vCPUs, and the guest has {guest}; \
         ask query-cpus-fast again"
    )]
    VcpuCount {
        /// Shares in the plan.
        plan: usize,
        /// vCPUs that the actuator knows.
        guest: usize,
    },
    /// A cgroup cannot be used for a quota.
    #[error("cgroup {}: {reason}", path.display())]
    Cgroup {
        /// The folder of the cgroup.
        path: PathBuf,
        /// Why not, and the way out.
        reason: String,
    },
    /// There is no cgroup to use.
    #[error("no quota by cgroups: {0}; throttle by the agent instead")]
    NoCgroup(String),
    /// A file of a cgroup, or of a process, cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// Nobody would put the quotas back.
    #[error(
        "the guard that puts quotas back when pagelift is killed does not start: {0}; \
         it needs /bin/sh"
    )]
    Guard(io::Error),
    /// QEMU did not answer, or refused.
    #[error("throttling by QEMU: {0}")]
    Qemu(#[from] QmpError),
    /// The embedder's callback failed.
    #[error("throttling by the embedder: {0}")]
    Callback(#[source] Box<dyn Error + Send + Sync>),
}

/// Throttles nothing: for guests that nobody may slow down.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoThrottle;

impl Throttle for NoThrottle {
    fn apply(&mut self, _: &ThrottlePlan) -> Result<(), ThrottleError> {
        Ok(())
    }

    fn release(&mut self) {}
}
