//! What a cookie's reader must understand.

use super::Phase;
use crate::domain::words::words;

words! {
    /// Something that a cookie's reader must understand.
    pub enum Feature {
        /// Viewers of the guest's screen are sent along.
        Graphics = "graphics",
        /// The state of a lock manager; always announced, with or without one.
        Lockstate = "lockstate",
        /// What the target is to define.
        Persistent = "persistent",
        /// Ports of virtual switches.
        Network = "network",
        /// Disks that are copied.
        Nbd = "nbd",
        /// What the migration has done.
        Statistics = "statistics",
        /// Memory can be plugged in.
        MemoryHotplug = "memory-hotplug",
        /// Processors can be plugged in.
        CpuHotplug = "cpu-hotplug",
        /// The guest's processor.
        Cpu = "cpu",
        /// What a QEMU can do.
        Capabilities = "capabilities",
        /// What was written to disks since some time.
        BlockDirtyBitmaps = "block-dirty-bitmaps",
    }
}

impl Feature {
    /// Whether this side takes the feature in the cookie of a phase.
    pub(super) const fn is_taken_in(self, phase: Phase) -> bool {
        match phase {
            Phase::Prepare => matches!(
                self,
                Self::Lockstate
                    | Self::Nbd
                    | Self::MemoryHotplug
                    | Self::CpuHotplug
                    | Self::Cpu
                    | Self::Capabilities
                    | Self::BlockDirtyBitmaps
            ),
            Phase::Perform => matches!(
                self,
                Self::Graphics | Self::Capabilities | Self::BlockDirtyBitmaps | Self::Nbd
            ),
            Phase::Finish => matches!(
                self,
                Self::Network | Self::Statistics | Self::Nbd | Self::Persistent
            ),
            Phase::Confirm => matches!(self, Self::Statistics),
        }
    }
}
