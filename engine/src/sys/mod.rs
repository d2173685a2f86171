//! Typed kernel interfaces: one file each, with the page of the manual that describes it.
//!
//! Nothing here knows of migrations. A call that the kernel does not have, or does not allow,
//! becomes [`SysError::Unsupported`], which says what to change; anything else that fails is
//! [`SysError::Failed`] with the kernel's answer.

mod boot_id;
mod kvm;
mod kvm_ring;
mod mappings;
mod memory_lock;
mod pagemap_scan;
mod random;
mod userfaultfd;

pub(crate) use boot_id::boot_id;
pub use kvm::{KvmSlot, KvmVm};
pub(crate) use kvm_ring::KvmRing;
pub use mappings::Mappings;
pub(crate) use memory_lock::{lock_memory, unlock_memory};
pub use pagemap_scan::{Content, Marks, PagemapScan};
pub use random::random_number;
pub use userfaultfd::Userfaultfd;

/// Why a kernel interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SysError {
    /// The kernel lacks it, or does not let this process have it.
    #[error("{what}; {remedy}")]
    Unsupported {
        /// What is missing.
        what: String,
        /// What to install, set or change.
        remedy: String,
    },
    /// The call exists and failed.
    #[error("{call} failed: {source}")]
    Failed {
        /// The call.
        call: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl SysError {
    fn failed(call: &'static str, errno: rustix::io::Errno) -> Self {
        Self::Failed {
            call,
            source: errno.into(),
        }
    }
}

/// The running kernel's release, such as `6.12.43`; for messages only.
fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
        |_| "of unknown version".to_owned(),
        |text| text.trim().to_owned(),
    )
}
