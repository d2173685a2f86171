//! Throttling by the quotas of cgroups, for a QEMU without an agent.
//!
//! A quota is a ceiling: a vCPU that wants less processor time than it allows is not slowed. Its
//! unit is the cgroup. libvirt puts each vCPU into a cgroup of its own, which then has its own
//! share; a QEMU that is alone in its cgroup is slowed as a whole, its monitor and migration
//! threads with its vCPUs, and all its vCPUs alike. A cgroup that holds anything else is refused.
//! The kernel allows no quota below 1 ms, so that large shares make for periods of up to 100 ms.
//! A quota that is in force already is not written again: each write would refill it.
//!
//! A limit that was there before is scaled, and put back at the end. There is no lease: if
//! pagelift is killed, a guard process puts the limits back at once; if pagelift hangs, or if
//! the guard is killed with it (`KillMode=control-group` of a systemd unit does that), they stay.
//! The agent has neither gap.

mod files;
mod guard;
mod mounts;
mod quota;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::iter;
use std::path::PathBuf;

pub use mounts::CgroupMounts;

use std::time::Duration;

use pagelift_engine::converge::ThrottleShare;

use super::{Actuator, ThrottleError, check_count};
use guard::Guard;
use quota::{Quota, Writes};

/// Slows vCPUs by the quotas of the cgroups they are in.
#[derive(Debug)]
pub struct CgroupThrottle {
    groups: Vec<Group>,
    vcpus: usize,
    slows_qemu: bool,
    /// There while quotas may differ from what they were.
    guard: Option<Guard>,
}

/// A cgroup with the vCPUs in it, by index.
#[derive(Debug)]
struct Group {
    quota: Quota,
    vcpus: Vec<usize>,
    /// Threads that the vCPUs run in: each can use one processor.
    threads: usize,
    /// What was written last; none before a guard is there.
    in_force: Option<Writes>,
}

impl CgroupThrottle {
    /// Finds the cgroups in which the threads `vcpu_threads` of the process `pid` are. Nothing is
    /// changed yet, but all that can be known to prevent it is looked at. All ids are those of
    /// this pid namespace.
    ///
    /// # Errors
    /// When a vCPU is in a cgroup whose quota cannot be set, or would hit others, and when no
    /// guard can be started.
    pub fn find(
        mounts: &CgroupMounts,
        pid: u32,
        vcpu_threads: &[u32],
    ) -> Result<Self, ThrottleError> {
        let mut vcpus_of: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
        for (index, &tid) in vcpu_threads.iter().enumerate() {
            let group = mounts.group_of(pid, tid)?;
            vcpus_of.entry(group).or_default().push(index);
        }
        if vcpus_of.is_empty() {
            return Err(ThrottleError::NoCgroup("the guest has no vCPU".into()));
        }
        let mut groups = Vec::with_capacity(vcpus_of.len());
        for (path, vcpus) in &vcpus_of {
            mounts.check_occupants(path, pid)?;
            if let Some(inner) = vcpus_of.keys().find(|&p| p != path && p.starts_with(path)) {
                return Err(ThrottleError::Cgroup {
                    path: path.clone(),
                    reason: format!(
                        "vCPUs are in it and in {} below it: two quotas would hit those; give \
                         each vCPU a cgroup beside the others",
                        inner.display()
                    ),
                });
            }
            let threads: BTreeSet<u32> = vcpus.iter().map(|&index| vcpu_threads[index]).collect();
            groups.push(Group {
                quota: Quota::open(path)?,
                vcpus: vcpus.clone(),
                threads: threads.len(),
                in_force: None,
            });
        }
        // One that has nothing to put back, for a try.
        let guard = Guard::start(iter::empty()).map_err(ThrottleError::Guard)?;
        guard.finish();
        // Its main loop, and with that the threads that it starts for a migration.
        let main = mounts.group_of(pid, pid).ok();
        let slows_qemu =
            main.is_some_and(|main| vcpus_of.keys().any(|group| main.starts_with(group)));
        Ok(Self {
            groups,
            vcpus: vcpu_threads.len(),
            slows_qemu,
            guard: None,
        })
    }

    /// Whether each vCPU can have a share of its own. If not, all shares must be alike.
    pub fn is_per_vcpu(&self) -> bool {
        self.groups.iter().all(|group| group.vcpus.len() == 1)
    }

    /// Whether the quotas hit QEMU's main loop as well, and so all that a monitor asks of it.
    pub fn slows_qemu(&self) -> bool {
        self.slows_qemu
    }

    fn write(&mut self, shares: &[ThrottleShare], period: Duration) -> Result<(), ThrottleError> {
        check_count(shares, self.vcpus)?;
        let wanted = self
            .groups
            .iter()
            .map(|group| group.share(shares))
            .collect::<Result<Vec<_>, _>>()?;
        if self.guard.is_none() {
            for group in &mut self.groups {
                group.quota.remember()?;
                group.in_force = Some(group.quota.restoring());
            }
            let writes = self.groups.iter().flat_map(|group| group.quota.restoring());
            self.guard = Some(Guard::start(writes).map_err(ThrottleError::Guard)?);
        }
        for (group, share) in self.groups.iter_mut().zip(wanted) {
            let writes = if share == ThrottleShare::NONE {
                group.quota.restoring()
            } else {
                group.quota.limiting(share, group.threads, period)
            };
            if group.in_force.as_ref() != Some(&writes) {
                quota::write(&writes)?;
                group.in_force = Some(writes);
            }
        }
        Ok(())
    }
}

impl Actuator for CgroupThrottle {
    /// # Errors
    /// When shares differ within one cgroup, and when a quota cannot be set: then all are as
    /// they were.
    fn apply(&mut self, shares: &[ThrottleShare], period: Duration) -> Result<(), ThrottleError> {
        self.write(shares, period).inspect_err(|_| self.release())
    }

    fn release(&mut self) {
        let Some(guard) = self.guard.take() else {
            return;
        };
        for group in &mut self.groups {
            // The guard tries again; a cgroup that is gone limits nobody.
            let _ = quota::write(&group.quota.restoring());
            group.in_force = None;
        }
        guard.finish();
    }
}

/// In words for people: which cgroups, and whether vCPUs can have different shares.
impl fmt::Display for CgroupThrottle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the quotas of ")?;
        for (index, group) in self.groups.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{}", group.quota.path().display())?;
        }
        f.write_str(match (self.vcpus, self.is_per_vcpu()) {
            (1, _) => "",
            (_, true) => " (each vCPU by its own share)",
            (_, false) => " (all vCPUs alike)",
        })
    }
}

impl Drop for CgroupThrottle {
    fn drop(&mut self) {
        self.release();
    }
}

impl Group {
    /// The one share of all its vCPUs.
    fn share(&self, shares: &[ThrottleShare]) -> Result<ThrottleShare, ThrottleError> {
        let mut own = self.vcpus.iter().map(|&index| shares[index]);
        let first = own.next().unwrap_or_default();
        if own.all(|share| share == first) {
            Ok(first)
        } else {
            Err(ThrottleError::Cgroup {
                path: self.quota.path().to_owned(),
                reason: "vCPUs in it cannot be slowed each by its own share; give each vCPU a \
                         cgroup, or slow all alike"
                    .into(),
            })
        }
    }
}
