//! Options of a move: the QEMU, and how it is to be moved.

use crate::driver::qemu::PersistentMemory;
use crate::qmp::Address;
use crate::throttle::ThrottleBy;

/// A QEMU whose guest's RAM the engine moves.
#[derive(Clone, Debug)]
pub struct DirectQemu {
    /// QEMU's monitor. For a source it is a unix socket.
    pub qmp: Address,
    /// Source: whether the guest is to stay when a disk of it fails and QEMU stops it for that.
    pub abort_on_error: bool,
    /// Source: whether to make disks that bypass the host's page cache go through it meanwhile; a
    /// guest with disks of that kind is refused otherwise.
    pub buffer_disks: bool,
    /// Source: whether the guest may go to a target that shows it another machine.
    pub allow_guest_abi_change: bool,
    /// What is done about persistent memory; the same on both sides.
    pub persistent_memory: PersistentMemory,
    /// Whether both QEMUs have the same RAM, on one host, so that none of it is copied; the same on both
    /// sides.
    pub same_memory: bool,
    /// Source: what throttles the guest when it must be.
    pub throttle_by: ThrottleBy,
}

impl DirectQemu {
    /// The QEMU whose monitor is at `qmp`, with no option set.
    pub fn new(qmp: Address) -> Self {
        Self {
            qmp,
            abort_on_error: false,
            allow_guest_abi_change: false,
            buffer_disks: false,
            persistent_memory: PersistentMemory::default(),
            same_memory: false,
            throttle_by: ThrottleBy::default(),
        }
    }
}
