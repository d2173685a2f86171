//! Slowing a guest down, so that it writes less than the link carries.
//!
//! A [`GuestThrottle`] is the throttle of one guest: it is what the engine's policy asks for, keeps
//! it in force, and counts what it came to. An [`Actuator`] does it:
//!
//! | actuator | how | per vCPU | pagelift killed | pagelift hangs |
//! |---|---|---|---|---|
//! | [`AgentThrottle`] | stops the vCPUs' threads | yes | released at once | the lease ends |
//! | [`CgroupThrottle`] | quotas, v2 or v1 | if each has a group | by a guard process | stays |
//!
//! There is one unit, the engine's [`ThrottleShare`]: the share of its time for which a vCPU is
//! kept from running. This module decides nothing: when to slow which vCPU is the policy's.

mod agent;
mod cgroup;
mod guest;
mod period;
mod vcpus;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use pagelift_engine::converge::ThrottleShare;

pub use agent::AgentThrottle;
pub use cgroup::{CgroupMounts, CgroupThrottle};
pub use guest::{FoundThrottle, GuestThrottle, ThrottleBy};
pub use vcpus::VcpuThrottled;

use crate::agent_client::AgentError;

/// Slows vCPUs down.
///
/// A throttle is in force until the next one or until [`release`](Self::release). One under a
/// lease also ends when it is not given again in time.
pub trait Actuator: Send {
    /// Keeps each vCPU from running for its one of `shares`, in the order of their index, by about
    /// one stop in each `period`. Takes the place of the throttle before.
    ///
    /// # Errors
    /// Says why it is not in force. What is in force then is for the actuator to say; a
    /// release ends it in any case.
    fn apply(&mut self, shares: &[ThrottleShare], period: Duration) -> Result<(), ThrottleError>;

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
    /// Shares for another number of vCPUs.
    #[error(
        "the throttle is for {shares} vCPUs, and the guest has {guest}; \
         ask query-cpus-fast again"
    )]
    VcpuCount {
        /// Shares that were given.
        shares: usize,
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

/// That there is one of `shares` for each of `guest` vCPUs.
fn check_count(shares: &[ThrottleShare], guest: usize) -> Result<(), ThrottleError> {
    let shares = shares.len();
    if shares == guest {
        return Ok(());
    }
    Err(ThrottleError::VcpuCount { shares, guest })
}
