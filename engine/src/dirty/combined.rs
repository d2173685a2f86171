//! Two sources of dirty pages as one: the writes of a guest's vCPUs from one place, and those of its
//! devices from another.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::{ClearMarks, DirtyError, DirtySource};
use crate::memory::PageBitmap;
use crate::units::PageRange;

/// The pages that either of two sources reports, such as KVM's log and the
/// [marks](super::ManualTracker) of a hypervisor's own devices. For more than two, combine again.
///
/// A write that one of them sees is not lost, whatever the other knows of the page: marks are
/// cleared in each for itself, and before the page is read.
pub struct Combined {
    first: Box<dyn DirtySource>,
    second: Box<dyn DirtySource>,
}

impl std::fmt::Debug for Combined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Combined").finish_non_exhaustive()
    }
}

impl Combined {
    /// Both number pages by the same layout. If both count the writes of each vCPU, those of
    /// `first` are taken.
    pub fn new(first: Box<dyn DirtySource>, second: Box<dyn DirtySource>) -> Self {
        Self { first, second }
    }
}

impl DirtySource for Combined {
    fn arm(&mut self) -> Result<(), DirtyError> {
        self.first.arm()?;
        self.second.arm().inspect_err(|_| self.first.disarm())
    }

    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        self.first.harvest(into)?;
        self.second.harvest(into)
    }

    fn harvest_in_parts(
        &mut self,
        into: &mut PageBitmap,
        part: &mut dyn FnMut(&PageBitmap),
    ) -> Result<(), DirtyError> {
        let mut told = PageBitmap::new(into.capacity());
        self.first.harvest_in_parts(into, &mut |found| {
            told.union(found);
            part(found);
        })?;
        // The second may depend on what the first has found.
        into.union(&told);
        self.second.harvest(into)
    }

    fn note_populated(&mut self, pages: &PageBitmap) -> Result<(), DirtyError> {
        self.first.note_populated(pages)?;
        self.second.note_populated(pages)
    }

    fn set_scan_threads(&mut self, threads: NonZeroUsize) -> Result<(), DirtyError> {
        self.first.set_scan_threads(threads)?;
        self.second.set_scan_threads(threads)
    }

    fn written_by(&mut self) -> Option<Vec<u64>> {
        self.first.written_by().or_else(|| self.second.written_by())
    }

    fn clear_before_read(&self) -> Option<Arc<dyn ClearMarks>> {
        match (
            self.first.clear_before_read(),
            self.second.clear_before_read(),
        ) {
            (Some(first), Some(second)) => Some(Arc::new(Both(first, second))),
            (first, second) => first.or(second),
        }
    }

    fn give_back(&mut self, pages: &PageBitmap) {
        self.first.give_back(pages);
    }

    fn disarm(&mut self) {
        self.first.disarm();
        self.second.disarm();
    }
}

/// The marks of two sources.
struct Both(Arc<dyn ClearMarks>, Arc<dyn ClearMarks>);

impl ClearMarks for Both {
    fn clear(&self, range: PageRange) -> io::Result<()> {
        self.0.clear(range)?;
        self.1.clear(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::ManualTracker;
    use crate::units::PageCount;

    const PAGES: PageCount = PageCount(200);

    /// A source that cannot be armed.
    struct Broken;

    impl DirtySource for Broken {
        fn arm(&mut self) -> Result<(), DirtyError> {
            Err(DirtyError::Unsupported {
                what: "this is a test".into(),
                remedy: "do not".into(),
            })
        }

        fn harvest(&mut self, _: &mut PageBitmap) -> Result<(), DirtyError> {
            unreachable!("it is not armed")
        }

        fn give_back(&mut self, _: &PageBitmap) {}

        fn disarm(&mut self) {
            unreachable!("it is not armed")
        }
    }

    /// Says what was done to it.
    struct Watched(ManualTracker, Arc<std::sync::atomic::AtomicBool>);

    impl DirtySource for Watched {
        fn arm(&mut self) -> Result<(), DirtyError> {
            self.1.store(true, std::sync::atomic::Ordering::Relaxed);
            self.0.arm()
        }

        fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
            self.0.harvest(into)
        }

        fn give_back(&mut self, pages: &PageBitmap) {
            self.0.give_back(pages);
        }

        fn disarm(&mut self) {
            self.1.store(false, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn harvest(source: &mut Combined) -> Vec<PageRange> {
        let mut pages = PageBitmap::new(PAGES);
        source.harvest(&mut pages).unwrap();
        pages.runs().collect()
    }

    #[test]
    fn what_either_reports_is_reported_once() {
        let (mut vcpus, devices) = (ManualTracker::new(PAGES), ManualTracker::new(PAGES));
        let markers = vcpus.vcpu_markers(1);
        let marker = devices.marker();
        marker.mark(PageRange::new(100, 1));
        let mut both = Combined::new(Box::new(vcpus), Box::new(devices));
        both.arm().unwrap();
        assert_eq!(harvest(&mut both), [], "marked before arming");
        markers[0].mark(PageRange::new(10, 5));
        marker.mark(PageRange::new(13, 5));
        marker.mark(PageRange::new(150, 1));
        assert_eq!(both.written_by(), Some(vec![5]));
        let expected = [PageRange::new(10, 8), PageRange::new(150, 1)];
        assert_eq!(harvest(&mut both), expected);
        assert_eq!(harvest(&mut both), []);
        let mut lost = PageBitmap::new(PAGES);
        lost.insert(PageRange::new(10, 8));
        both.give_back(&lost);
        assert_eq!(harvest(&mut both), [PageRange::new(10, 8)]);
        assert!(both.clear_before_read().is_none());
    }

    #[test]
    fn if_one_cannot_be_armed_the_other_is_not_left_armed() {
        let armed = Arc::default();
        let first = Watched(ManualTracker::new(PAGES), Arc::clone(&armed));
        let mut both = Combined::new(Box::new(first), Box::new(Broken));
        assert!(both.arm().is_err());
        assert!(!armed.load(std::sync::atomic::Ordering::Relaxed));
    }
}
