//! Checks the whole memory of the demo's guest against the writes that its vCPUs counted.
//!
//! The memory is rebuilt slice by slice from the [`Script`] and the numbers of writes, and
//! compared byte by byte. Cost: one replay of all writes per slice; memory: two slices.

use anyhow::{Context, Result, bail};
use pagelift_engine::memory::ReadPages;
use pagelift_engine::units::{PAGE_BYTES, PageRange};

use super::pattern::Script;

/// Pages that are rebuilt at a time.
const SLICE_PAGES: u64 = 8192;

/// Compares `memory` with what it must hold after each vCPU has done its number of `writes`.
///
/// # Errors
/// Names the first page that differs.
pub fn check(memory: &dyn ReadPages, script: &Script, writes: &[u64]) -> Result<()> {
    let mut expected = vec![0u8; SLICE_PAGES as usize * PAGE_BYTES];
    let mut actual = expected.clone();
    let mut first = 0;
    while first < script.pages {
        let slice = PageRange::new(first, SLICE_PAGES.min(script.pages - first));
        rebuild(script, writes, slice, &mut expected[..slice.len_bytes()]);
        let actual = &mut actual[..slice.len_bytes()];
        memory
            .read(slice, actual)
            .context("reading the guest's memory")?;
        let pages = expected
            .chunks_exact(PAGE_BYTES)
            .zip(actual.chunks_exact(PAGE_BYTES));
        for (page, (expected, actual)) in slice.indices().zip(pages) {
            if expected != actual {
                bail!(
                    "page {page} does not hold what vCPU {} wrote",
                    page % u64::from(script.vcpus)
                );
            }
        }
        first = slice.end();
    }
    Ok(())
}

/// Writes into `out` what the pages of `slice` must hold.
fn rebuild(script: &Script, writes: &[u64], slice: PageRange, out: &mut [u8]) {
    for (page, content) in slice.indices().zip(out.chunks_exact_mut(PAGE_BYTES)) {
        put_words(content, script.initial_words(page));
    }
    for (vcpu, count) in (0u32..).zip(writes) {
        for number in 0..*count {
            let write = script.write(vcpu, number);
            if slice.indices().contains(&write.page) {
                let at = (write.page - slice.first.0) as usize * PAGE_BYTES + write.offset;
                put_words(&mut out[at..], write.words(script.write_bytes));
            }
        }
    }
}

fn put_words(out: &mut [u8], words: impl Iterator<Item = u64>) {
    for (place, word) in out.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}
