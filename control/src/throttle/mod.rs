//! Slowing a guest down, so that it writes less than the link carries.
//!
//! A [`ThrottlePlan`] says how much each vCPU is slowed; a [`Throttle`] does it:
//!
//! | actuator | how | per vCPU | pagelift killed | pagelift hangs |
//! |---|---|---|---|---|
//! | [`AgentThrottle`] | stops the vCPUs' threads | yes | released at once | the lease ends |
//! | [`CgroupThrottle`] | quotas, v2 or v1 | if each has a group | by a guard process | stays |
//!
//! Shares are of the time, in permille, in which a vCPU is kept from running. This module
//! decides nothing: when to slow which vCPU is the policy's.

mod agent;
mod cgroup;
mod plan;

use std::io;
use std::path::PathBuf;

pub use agent::AgentThrottle;
pub use cgroup::{CgroupMounts, CgroupThrottle};
pub use plan::{Permille, ThrottlePlan};

use crate::agent_client::AgentError;

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
}
