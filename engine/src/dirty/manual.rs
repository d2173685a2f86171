//! Dirty tracking by word of mouth: whoever writes says so.
//!
//! For embedders whose writes do not go through page tables that the kernel could watch
//! (emulated devices, vhost-user back ends with a log of their own), and for the simulator.
//!
//! # Why no write is lost
//!
//! A writer stores the content first and marks the page afterwards. The migration takes the mark
//! first and reads the content afterwards. Marks are changed by read-modify-write operations
//! alone, which act on each word in one total order, so there are two cases:
//!
//! - The mark comes before the harvest's swap. The swap (Acquire) then reads it, or a later
//!   value of the same release sequence, and so everything before the mark (Release) happened
//!   before the harvest: the content that is read is the new one.
//! - The mark comes after the swap. Then it is still there for the next harvest, whatever content
//!   was read meanwhile.
//!
//! The swap is `AcqRel`: the Acquire half is what the first case rests on. The Release half costs
//! nothing and keeps the reads of the round before from being moved behind this round's swap, so
//! that rounds do not overlap. Before the last harvest the writers have been stopped, and
//! whatever stopped them orders their last marks before it.
//!
//! # The traps
//!
//! - Reading content before clearing the mark: a write between the two loses its mark. Hence
//!   [`harvest`](DirtySource::harvest) returns only after the swap.
//! - Marking before writing: the harvest may fall between the two.
//! - Leaving out the `fetch_or` when a load shows the bit already set: that load may see the
//!   state before the swap while the content is stored after the read (store buffering, allowed
//!   on x86 too). A mark is therefore always a full read-modify-write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{DirtyError, DirtySource};
use crate::memory::PageBitmap;
use crate::units::{PageCount, PageRange};

/// Marks pages as written. Cheap to clone, usable from any thread, never blocks.
#[derive(Clone, Debug)]
pub struct DirtyMarker {
    words: Arc<[AtomicU64]>,
    pages: u64,
}

impl DirtyMarker {
    /// Says that the pages of `range` **have been** written: call it after the write, never
    /// before. Pages beyond the layout are left out.
    ///
    /// One atomic operation per 64 pages.
    pub fn mark(&self, range: PageRange) {
        self.set(range);
    }

    /// Marks, and tells how many of the pages had no mark.
    fn set(&self, range: PageRange) -> u64 {
        let end = range.end().min(self.pages);
        let mut at = range.first.0;
        let mut new = 0;
        while at < end {
            let stop = end.min((at / 64 + 1) * 64);
            let mask = (u64::MAX >> (64 - (stop - at))) << (at % 64);
            if let Some(word) = usize::try_from(at / 64)
                .ok()
                .and_then(|i| self.words.get(i))
            {
                let before = word.fetch_or(mask, Ordering::Release);
                new += u64::from((mask & !before).count_ones());
            }
            at = stop;
        }
        new
    }
}

/// Marks pages as written by one vCPU, and counts them; otherwise a [`DirtyMarker`].
#[derive(Clone, Debug)]
pub struct VcpuMarker {
    marker: DirtyMarker,
    counts: Arc<[AtomicU64]>,
    vcpu: usize,
}

impl VcpuMarker {
    /// As [`DirtyMarker::mark`]. A page counts for the vCPU that marks it first after a harvest.
    pub fn mark(&self, range: PageRange) {
        let new = self.marker.set(range);
        self.counts[self.vcpu].fetch_add(new, Ordering::Relaxed);
    }
}

/// The pages that were [marked](DirtyMarker::mark).
#[derive(Debug)]
pub struct ManualTracker {
    marker: DirtyMarker,
    /// Pages marked by each vCPU; empty if nobody counts.
    counts: Arc<[AtomicU64]>,
}

impl ManualTracker {
    /// Nothing marked, of a layout of `pages` pages. 32 KiB per GiB.
    pub fn new(pages: PageCount) -> Self {
        Self {
            marker: DirtyMarker {
                words: (0..pages.0.div_ceil(64))
                    .map(|_| AtomicU64::new(0))
                    .collect(),
                pages: pages.0,
            },
            counts: Arc::default(),
        }
    }

    /// The means for each of `vcpus` vCPUs to mark what it writes, so that a throttle can tell
    /// them apart: for a hypervisor that has a log of each, such as KVM's dirty rings. Called
    /// again, the counts begin anew, and the markers of before count no more.
    pub fn vcpu_markers(&mut self, vcpus: usize) -> Vec<VcpuMarker> {
        self.counts = (0..vcpus).map(|_| AtomicU64::new(0)).collect();
        (0..vcpus)
            .map(|vcpu| VcpuMarker {
                marker: self.marker.clone(),
                counts: Arc::clone(&self.counts),
                vcpu,
            })
            .collect()
    }

    /// The means to mark pages; marks that are set before arming do not count.
    pub fn marker(&self) -> DirtyMarker {
        self.marker.clone()
    }
}

impl DirtySource for ManualTracker {
    /// Drops all marks. Cannot fail.
    fn arm(&mut self) -> Result<(), DirtyError> {
        for word in &*self.marker.words {
            word.swap(0, Ordering::AcqRel);
        }
        Ok(())
    }

    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        for (index, word) in self.marker.words.iter().enumerate() {
            // The bit, if there is one, was set before or will be set again: a plain look saves
            // the read-modify-write on words that are clean. A mark that this load does not see
            // yet stays for the next harvest, which is the second case above.
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut marks = word.swap(0, Ordering::AcqRel);
            let mut at = index as u64 * 64;
            while marks != 0 {
                let skip = marks.trailing_zeros();
                marks >>= skip;
                at += u64::from(skip);
                let run = marks.trailing_ones();
                into.insert(PageRange::new(at, u64::from(run)));
                marks = marks.checked_shr(run).unwrap_or(0);
                at += u64::from(run);
            }
        }
        Ok(())
    }

    fn written_by(&mut self) -> Option<Vec<u64>> {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (!self.counts.is_empty()).then(|| self.counts.iter().map(count).collect())
    }

    fn give_back(&mut self, pages: &PageBitmap) {
        for run in pages.runs() {
            self.marker.mark(run);
        }
    }

    /// Writers may go on marking: nobody looks.
    fn disarm(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn pages_count_for_the_vcpu_that_marks_them_first() {
        let mut tracker = ManualTracker::new(PageCount(200));
        assert_eq!(tracker.written_by(), None);
        let markers = tracker.vcpu_markers(2);
        markers[0].mark(PageRange::new(60, 10));
        markers[1].mark(PageRange::new(65, 10));
        assert_eq!(tracker.written_by(), Some(vec![10, 5]));
        let mut seen = PageBitmap::new(PageCount(200));
        tracker.harvest(&mut seen).unwrap();
        assert_eq!(seen.count(), PageCount(15));
        markers[1].mark(PageRange::new(60, 1));
        assert_eq!(tracker.written_by(), Some(vec![10, 6]));
    }

    proptest! {
        #[test]
        fn reports_exactly_the_marked_pages_once(
            pages in 1u64..300,
            marks in prop::collection::vec((0u64..320, 0u64..150), 0..20),
        ) {
            let mut tracker = ManualTracker::new(PageCount(pages));
            let marker = tracker.marker();
            let mut expected = PageBitmap::new(PageCount(pages));
            for (first, count) in marks {
                marker.mark(PageRange::new(first, count));
                expected.insert(PageRange::new(first, count));
            }
            let mut seen = PageBitmap::new(PageCount(pages));
            tracker.harvest(&mut seen).unwrap();
            prop_assert_eq!(&seen, &expected);
            let mut again = PageBitmap::new(PageCount(pages));
            tracker.harvest(&mut again).unwrap();
            prop_assert!(again.is_empty());
            tracker.give_back(&seen);
            tracker.harvest(&mut again).unwrap();
            prop_assert_eq!(again, expected);
        }
    }

    #[test]
    fn arming_drops_what_was_marked_before() {
        let mut tracker = ManualTracker::new(PageCount(70));
        tracker.marker().mark(PageRange::new(0, 70));
        tracker.arm().unwrap();
        let mut seen = PageBitmap::new(PageCount(70));
        tracker.harvest(&mut seen).unwrap();
        assert!(seen.is_empty());
    }

    /// A writer and a harvester race; the copy must be complete after the writer has stopped.
    #[test]
    fn a_copy_kept_up_by_harvests_ends_equal() {
        const PAGES: u64 = 130;
        let memory: Vec<AtomicU64> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
        let mut copy = vec![0; PAGES as usize];
        let mut tracker = ManualTracker::new(PageCount(PAGES));
        let marker = tracker.marker();
        let done = AtomicBool::new(false);
        let mut harvest_into = |copy: &mut Vec<u64>| {
            let mut dirty = PageBitmap::new(PageCount(PAGES));
            tracker.harvest(&mut dirty).unwrap();
            for page in dirty.runs().flat_map(PageRange::indices) {
                copy[page as usize] = memory[page as usize].load(Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for step in 1..200_000u64 {
                    let page = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) % PAGES;
                    memory[page as usize].store(step, Ordering::Relaxed);
                    marker.mark(PageRange::new(page, 1));
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                harvest_into(&mut copy);
            }
            harvest_into(&mut copy);
        });
        let content: Vec<u64> = memory.into_iter().map(AtomicU64::into_inner).collect();
        assert_eq!(copy, content);
    }
}
