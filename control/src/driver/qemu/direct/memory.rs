//! The guest's RAM as the engine sees it.

use pagelift_engine::memory::{FileMemory, Layout, Region, RegionFile};
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount};

use super::error::DirectError;
use crate::driver::qemu::inspect::RamBlock;

/// The files of `blocks` as one memory.
pub(super) fn open(blocks: &[RamBlock]) -> Result<FileMemory, DirectError> {
    let regions = blocks
        .iter()
        .map(|block| Region {
            name: block.name.clone(),
            pages: PageCount(block.bytes / PAGE_BYTES as u64),
            backing_page: ByteCount(block.page_bytes),
        })
        .collect();
    let files = blocks
        .iter()
        .map(|block| {
            let file = block.file.try_clone()?;
            Ok(RegionFile {
                file,
                offset: block.file_offset,
            })
        })
        .collect::<std::io::Result<_>>()
        .map_err(DirectError::Open)?;
    Ok(FileMemory::new(Layout::new(regions)?, files)?)
}
