//! The guest's RAM as the engine sees it.

use std::fs::File;

use pagelift_engine::memory::{FileMemory, Layout, Region, RegionFile};
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount};

use rustix::fs::{MemfdFlags, memfd_create};

use super::error::DirectError;
use crate::driver::qemu::inspect::RamBlock;

/// What stands for RAM of which nothing is copied.
const NOTHING: &str = "nothing to copy";

/// The files of `blocks` as one memory. Without any, a page of this process stands for them, as a
/// migration is of some memory: it is empty, and nobody writes to it.
pub(super) fn open(blocks: &[RamBlock]) -> Result<FileMemory, DirectError> {
    if blocks.is_empty() {
        let page = memfd_create(NOTHING, MemfdFlags::CLOEXEC).map_err(std::io::Error::from);
        let page = File::from(page.map_err(DirectError::Open)?);
        page.set_len(PAGE_BYTES as u64).map_err(DirectError::Open)?;
        let region = Region {
            name: NOTHING.into(),
            pages: PageCount(1),
            backing_page: ByteCount(PAGE_BYTES as u64),
        };
        let file = RegionFile {
            file: page,
            offset: 0,
        };
        return Ok(FileMemory::new(Layout::new(vec![region])?, vec![file])?);
    }
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
