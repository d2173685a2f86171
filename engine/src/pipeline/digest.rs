//! The digest of a whole memory, by several threads.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::codec::MemoryDigest;
use crate::memory::{MemoryError, PageBitmap, PageBuffer, ReadPages};
use crate::units::PageRange;

/// Pages that a thread takes at a time.
const PIECE_PAGES: u64 = 64;

/// Pages between two looks for more work; a whole number of pieces.
const SHARE_PAGES: u64 = 4096;

/// Reads every populated page of `memory` with `threads` threads and adds up their digests.
///
/// # Errors
/// When memory cannot be read.
pub fn digest_memory(memory: &dyn ReadPages, threads: usize) -> Result<MemoryDigest, MemoryError> {
    let digest = digest_memory_unless(memory, threads, &|| false)?;
    Ok(digest.expect("nothing told it to stop"))
}

/// The same, but for nothing once `stop` says so: it is asked every 16 MiB of memory.
///
/// # Errors
/// When memory cannot be read.
pub fn digest_memory_unless(
    memory: &dyn ReadPages,
    threads: usize,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Option<MemoryDigest>, MemoryError> {
    let pages = memory.layout().pages();
    let mut populated = PageBitmap::new(pages);
    memory.populated(&mut populated)?;
    let next = AtomicU64::new(0);
    let work = || -> Result<Option<MemoryDigest>, MemoryError> {
        let mut digest = MemoryDigest::default();
        let mut buffer = PageBuffer::new(PIECE_PAGES as usize);
        loop {
            let first = next.fetch_add(SHARE_PAGES, Ordering::Relaxed);
            if first >= pages.0 {
                return Ok(Some(digest));
            }
            if stop() {
                return Ok(None);
            }
            let mut at = first;
            while let Some(run) = populated.next_run(at, PIECE_PAGES)
                && run.first.0 < first + SHARE_PAGES
            {
                let end = run.end().min(first + SHARE_PAGES);
                let run = PageRange::new(run.first.0, end - run.first.0);
                let content = &mut buffer[..run.len_bytes()];
                memory.read(run, content)?;
                digest.add_pages(run.first, content);
                at = end;
            }
        }
    };
    if threads <= 1 {
        return work();
    }
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut digest = work();
        for helper in helpers {
            // A panic in a helper is a bug and goes on here.
            let theirs = helper
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            digest = digest.and_then(|mine| {
                let both = |theirs: Option<MemoryDigest>| Some(mine?.combine(theirs?));
                theirs.map(both)
            });
        }
        digest
    })
}
