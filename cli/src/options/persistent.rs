//! The option for persistent memory; the same option on both sides.

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use pagelift_control::driver::qemu::PersistentMemory;

/// What is done about persistent memory.
#[derive(Args, Clone, Copy, Debug)]
pub struct PersistentOptions {
    /// What to do about persistent memory (NVDIMM, virtio-pmem, pmem=on), which is a disk and not
    /// RAM; must be the same on both sides
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value_t = PersistentMemoryName::SameFile
    )]
    persistent_memory: PersistentMemoryName,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PersistentMemoryName {
    /// Leave it alone; refuse the guest unless both sides are seen to have the same file
    SameFile,
    /// The same; where the file system cannot tell (NFS, FUSE), believe that it is the same file
    Shared,
    /// Copy it to the target, whose file must be empty
    Copy,
}

impl PersistentOptions {
    /// The same for a program on the other side.
    pub fn words(self) -> Vec<String> {
        let name = self.persistent_memory.to_possible_value();
        let word = |name: PossibleValue| format!("--persistent-memory={}", name.get_name());
        name.map(word).into_iter().collect()
    }

    /// What is chosen.
    pub fn chosen(self) -> PersistentMemory {
        match self.persistent_memory {
            PersistentMemoryName::SameFile => PersistentMemory::SameFile,
            PersistentMemoryName::Shared => PersistentMemory::Shared,
            PersistentMemoryName::Copy => PersistentMemory::Copy,
        }
    }
}
