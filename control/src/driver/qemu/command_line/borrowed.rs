//! The memory of a QEMU that runs, for another one on the same host that is to take its guest over.
//!
//! The files are opened as the kernel has them in that process; QEMU inherits them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::{Host, MemoryFile};
use crate::driver::qemu::{Guest, InspectError, RamBlock};
use crate::qmp::{Address, Qmp};

/// The files of another QEMU's memory.
#[derive(Debug)]
pub(super) struct BorrowedMemory {
    blocks: Vec<RamBlock>,
    /// Not close-on-exec, and open until then.
    inherited: Vec<OwnedFd>,
}

impl BorrowedMemory {
    /// Those of the guest behind the monitor `qmp`.
    ///
    /// # Errors
    /// When it cannot be looked into.
    pub(super) fn of(qmp: &Address) -> Result<Self, InspectError> {
        let guest = Guest::inspect(&Qmp::connect(qmp)?)?;
        Ok(Self {
            blocks: guest.open_ram()?,
            inherited: Vec::new(),
        })
    }
}

impl Host for BorrowedMemory {
    /// Finds the file that the other QEMU has for the same backend.
    fn create_memory(&mut self, file: &MemoryFile) -> io::Result<String> {
        let mut blocks = self.blocks.iter();
        let block = blocks.find(|block| block.backend_id == file.id);
        let block = block
            .ok_or_else(|| io::Error::other("the other QEMU has no memory of this identifier"))?;
        if (block.bytes, block.file_offset) != (file.size_bytes, 0) {
            return Err(io::Error::other(format!(
                "the other QEMU has {} bytes of it, from byte {} of its file",
                block.bytes, block.file_offset
            )));
        }
        let fd = rustix::io::dup(&block.file)?;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        self.inherited.push(fd);
        Ok(path)
    }

    fn read_config(&mut self, path: &str) -> io::Result<String> {
        std::fs::read_to_string(path)
    }
}
