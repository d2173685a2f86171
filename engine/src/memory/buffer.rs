//! Room for the content of pages, where the kernel copies them quickly.
//!
//! Guest memory and the page cache begin at page boundaries, and so do the pages that the kernel
//! copies from and to. Where the destination of a copy lies less than 32 bytes ahead of its source,
//! page boundaries aside, some processors take four times as long (Zen 3 with `rep movsb`; a load
//! waits for stores that only seem to be to the same place). Large allocations of glibc are just so:
//! 16 bytes behind a page boundary. Half a page from it is as far as can be, in either direction
//! (`docs/decisions/034-buffers-half-a-page-off.md`).
//!
//! Invariant: the length never changes, and all memory is allocated by [`PageBuffer::new`]. The
//! kernel populates it at first use.

use std::ops::{Deref, DerefMut};

use crate::units::{ByteCount, PAGE_BYTES};

/// Where the content begins, in bytes behind a page boundary.
const OFFSET: usize = PAGE_BYTES / 2;

/// Bytes of a number of pages, zero at first. See the module's head for where they are.
#[derive(Debug)]
pub struct PageBuffer {
    room: Box<[u8]>,
    start: usize,
    length: usize,
}

impl PageBuffer {
    /// Room for so many pages.
    pub fn new(pages: usize) -> Self {
        let length = pages * PAGE_BYTES;
        let room = vec![0; length + PAGE_BYTES].into_boxed_slice();
        let behind = room.as_ptr().addr() % PAGE_BYTES;
        Self {
            start: (OFFSET + PAGE_BYTES - behind) % PAGE_BYTES,
            room,
            length,
        }
    }

    /// What one for so many pages takes.
    pub(crate) const fn footprint(pages: usize) -> ByteCount {
        ByteCount(((pages + 1) * PAGE_BYTES) as u64)
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.room[self.start..self.start + self.length]
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_half_a_page_off_wherever_it_was_allocated() {
        for pages in [0, 1, 2, 3, 64, 128] {
            let mut buffer = PageBuffer::new(pages);
            assert_eq!(buffer.as_ptr().addr() % PAGE_BYTES, OFFSET);
            assert_eq!(buffer.len(), pages * PAGE_BYTES);
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(7);
            assert_eq!(
                buffer.room.iter().filter(|b| **b == 7).count(),
                buffer.len()
            );
            assert!(buffer.room.len() as u64 <= PageBuffer::footprint(pages).0);
        }
    }
}
