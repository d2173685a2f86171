//! Memory whose pages stay where they are.

use std::sync::Arc;

use super::{GuestMemory, InFiles, Layout, MapPages, MemoryError, PageBitmap, ReadPages};
use crate::codec::is_zero;
use crate::units::{PAGE_BYTES, PageIndex, PageRange};

/// A memory of which a device has pinned pages: what is to be zero is written, and never given back.
/// A page that a file gets in the place of one that was given back would be another than the one that
/// the device writes to.
pub(crate) struct InPlaceMemory(pub(crate) Arc<dyn GuestMemory>);

impl ReadPages for InPlaceMemory {
    fn layout(&self) -> &Layout {
        self.0.layout()
    }

    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        self.0.read(range, out)
    }

    fn populated(&self, into: &mut PageBitmap) -> Result<(), MemoryError> {
        self.0.populated(into)
    }

    fn in_files(&self) -> Option<&dyn InFiles> {
        self.0.in_files()
    }
}

impl GuestMemory for InPlaceMemory {
    fn write(&self, first: PageIndex, data: &[u8]) -> Result<(), MemoryError> {
        self.0.write(first, data)
    }

    /// Only pages that are not zero are written, so that absent ones stay absent.
    fn write_zeros(&self, range: PageRange) -> Result<(), MemoryError> {
        let mut page = [0; PAGE_BYTES];
        for index in range.indices() {
            self.0.read(PageRange::new(index, 1), &mut page)?;
            if !is_zero(&page) {
                self.0.write(PageIndex(index), &[0; PAGE_BYTES])?;
            }
        }
        Ok(())
    }

    fn map_pages(&self) -> Option<&dyn MapPages> {
        self.0.map_pages()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::FileMemory;
    use crate::units::PageCount;

    #[test]
    fn zeros_are_written_to_pages_that_stay_and_holes_stay_holes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * PAGE_BYTES as u64).unwrap();
        let memory = InPlaceMemory(Arc::new(FileMemory::whole(file).unwrap()));
        memory.write(PageIndex(1), &[7; PAGE_BYTES]).unwrap();
        memory.write_zeros(PageRange::new(0, 4)).unwrap();
        let mut content = [1; 2 * PAGE_BYTES];
        memory.read(PageRange::new(0, 2), &mut content).unwrap();
        assert_eq!(content, [0; 2 * PAGE_BYTES]);
        let mut populated = PageBitmap::new(PageCount(4));
        memory.populated(&mut populated).unwrap();
        assert_eq!(populated.runs().collect::<Vec<_>>(), [PageRange::new(1, 1)]);
    }
}
