//! Throttling by the quotas of cgroups, for a QEMU without an agent.
//!
//! A quota is a ceiling: a vCPU that wants less processor time than it allows is not slowed. Its
//! unit is the cgroup. libvirt puts each vCPU into a cgroup of its own, which then has its own
//! share; a QEMU that is alone in its cgroup is slowed as a whole, its monitor and migration
//! threads with its vCPUs, and all its vCPUs alike. A cgroup that holds anything else is refused.
//! The kernel allows no quota below 1 ms, so that large shares make for periods of up to 100 ms.
//!
//! A limit that was there before is scaled, and put back at the end. There is no lease: if
//! pagelift is killed, a guard process puts the limits back at once; if pagelift hangs, or if
//! the guard is killed with it (`KillMode=control-group` of a systemd unit does that), they stay.
//! The agent has neither gap.

mod guard;
mod mounts;
mod quota;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use mounts::CgroupMounts;

use super::{Permille, Throttle, ThrottleError, ThrottlePlan};
use guard::Guard;
use quota::Quota;

/// Slows vCPUs by the quotas of the cgroups they are in.
#[derive(Debug)]
pub struct CgroupThrottle {
    groups: Vec<Group>,
    vcpus: usize,
    /// There while quotas may differ from what they were.
    guard: Option<Guard>,
}

/// A cgroup with the vCPUs in it, by index.
#[derive(Debug)]
struct Group {
    quota: Quota,
    vcpus: Vec<usize>,
}

impl CgroupThrottle {
    /// Finds the cgroups in which the threads `vcpu_threads` of the process `pid` are. Nothing is
    /// changed yet. All ids are those of this pid namespace.
    ///
    /// # Errors
    /// When a vCPU is in a cgroup whose quota cannot be set, or would hit others.
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
            groups.push(Group {
                quota: Quota::open(path)?,
                vcpus: vcpus.clone(),
            });
        }
        Ok(Self {
            groups,
            vcpus: vcpu_threads.len(),
            guard: None,
        })
    }

    fn write(&mut self, plan: &ThrottlePlan) -> Result<(), ThrottleError> {
        let shares = plan.shares_of(self.vcpus)?;
        let wanted = self
            .groups
            .iter()
            .map(|group| group.share(&shares))
            .collect::<Result<Vec<_>, _>>()?;
        if self.guard.is_none() {
            for group in &mut self.groups {
                group.quota.remember()?;
            }
            let writes = self.groups.iter().flat_map(|group| group.quota.restoring());
            self.guard = Some(Guard::start(writes).map_err(ThrottleError::Guard)?);
        }
        for (group, share) in self.groups.iter().zip(wanted) {
            let writes = if share == Permille::ZERO {
                group.quota.restoring()
            } else {
                group
                    .quota
                    .limiting(share, group.vcpus.len(), plan.period())
            };
            quota::write(&writes)?;
        }
        Ok(())
    }
}

impl Throttle for CgroupThrottle {
    /// # Errors
    /// When shares differ within one cgroup, and when a quota cannot be set: then all are as
    /// they were.
    fn apply(&mut self, plan: &ThrottlePlan) -> Result<(), ThrottleError> {
        self.write(plan).inspect_err(|_| self.release())
    }

    fn release(&mut self) {
        let Some(guard) = self.guard.take() else {
            return;
        };
        for group in &self.groups {
            // The guard tries again; a cgroup that is gone limits nobody.
            let _ = quota::write(&group.quota.restoring());
        }
        guard.finish();
    }
}

impl Drop for CgroupThrottle {
    fn drop(&mut self) {
        self.release();
    }
}

impl Group {
    /// The one share of all its vCPUs.
    fn share(&self, shares: &[Permille]) -> Result<Permille, ThrottleError> {
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
