//! The tracker of the guest's writes, at whose calls others do something, and which may fail.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagelift_engine::dirty::{ClearMarks, DirtyError, DirtySource, ManualTracker};
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::units::{PageCount, PageRange};
use pagelift_transports::sim::SimRng;

use super::crew;
use super::truth::{Mishap, Truth};

/// The tracker of the source's memory; may lose a mark if told to.
#[derive(Debug)]
pub struct SimTracker {
    marks: Arc<Mutex<Marks>>,
    clears: Clears,
    truth: Arc<Truth>,
    armed: bool,
    /// Forget a page once in so many harvests.
    loses: Option<(SimRng, u64)>,
}

/// When marks are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clears {
    /// By the harvest.
    Harvested,
    /// Before a page is read, as by KVM's log with manual protection.
    BeforeRead,
}

#[derive(Debug)]
struct Marks {
    written: ManualTracker,
    /// With [`Clears::BeforeRead`]: pages that are marked, and those of them that were harvested.
    log: PageBitmap,
    told: PageBitmap,
}

impl Marks {
    /// Brings the log up to date.
    fn sync(&mut self) {
        self.written.harvest(&mut self.log).expect("it cannot fail");
    }

    fn harvest(&mut self, clears: Clears, into: &mut PageBitmap) {
        if clears == Clears::Harvested {
            return self.written.harvest(into).expect("it cannot fail");
        }
        self.sync();
        let mut new = self.log.clone();
        self.told.runs().for_each(|run| new.remove(run));
        self.told.union(&new);
        into.union(&new);
    }
}

impl SimTracker {
    pub fn new(
        written: ManualTracker,
        pages: PageCount,
        clears: Clears,
        truth: &Arc<Truth>,
    ) -> Self {
        let marks = Marks {
            written,
            log: PageBitmap::new(pages),
            told: PageBitmap::new(pages),
        };
        Self {
            marks: Arc::new(Mutex::new(marks)),
            clears,
            truth: Arc::clone(truth),
            armed: false,
            loses: None,
        }
    }

    pub fn lose_marks(&mut self, loses: Option<(SimRng, u64)>) {
        self.loses = loses;
    }

    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// The pages that are marked now; takes them.
    pub fn marks(&mut self, into: &mut PageBitmap) {
        let mut marks = lock(&self.marks);
        marks.sync();
        into.union(&marks.log);
        marks.log.clear();
        marks.told.clear();
    }
}

fn lock(marks: &Mutex<Marks>) -> MutexGuard<'_, Marks> {
    marks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clears marks before pages are read.
struct Clearer(Arc<Mutex<Marks>>);

impl ClearMarks for Clearer {
    fn clear(&self, range: PageRange) -> io::Result<()> {
        crew::meanwhile();
        let mut marks = lock(&self.0);
        marks.sync();
        marks.log.remove(range);
        marks.told.remove(range);
        drop(marks);
        crew::meanwhile();
        Ok(())
    }
}

impl DirtySource for SimTracker {
    fn arm(&mut self) -> Result<(), DirtyError> {
        crew::meanwhile();
        if self.truth.strikes(Mishap::Arm) {
            return Err(refused("arm"));
        }
        let mut marks = lock(&self.marks);
        marks.written.arm()?;
        marks.log.clear();
        marks.told.clear();
        drop(marks);
        self.armed = true;
        crew::meanwhile();
        Ok(())
    }

    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        if !self.armed {
            self.truth.broken("a harvest without arming".into());
        }
        crew::meanwhile();
        lock(&self.marks).harvest(self.clears, into);
        if let Some((rng, one_in)) = &mut self.loses
            && rng.one_in(*one_in)
            && let Some(run) = into.next_run(rng.below(into.capacity().0), 1)
        {
            into.remove(run);
        }
        if self.truth.strikes(Mishap::Harvest) {
            return Err(refused("harvest"));
        }
        crew::meanwhile();
        Ok(())
    }

    /// In many parts, and each page of every second one twice.
    fn harvest_in_parts(
        &mut self,
        into: &mut PageBitmap,
        part: &mut dyn FnMut(&PageBitmap),
    ) -> Result<(), DirtyError> {
        let mut all = PageBitmap::new(into.capacity());
        let result = self.harvest(&mut all);
        if result.is_err() {
            into.union(&all);
            return result;
        }
        for (number, run) in all.runs().enumerate() {
            into.insert(run);
            if number % 3 == 2 {
                part(into);
                crew::meanwhile();
            }
            if number % 6 == 2 {
                into.clear();
            }
        }
        Ok(())
    }

    fn clear_before_read(&self) -> Option<Arc<dyn ClearMarks>> {
        let clearer = || Arc::new(Clearer(Arc::clone(&self.marks))) as Arc<dyn ClearMarks>;
        (self.clears == Clears::BeforeRead).then(clearer)
    }

    fn give_back(&mut self, pages: &PageBitmap) {
        let mut marks = lock(&self.marks);
        marks.written.give_back(pages);
        pages.runs().for_each(|run| marks.told.remove(run));
    }

    fn disarm(&mut self) {
        self.armed = false;
        lock(&self.marks).written.disarm();
    }
}

fn refused(call: &'static str) -> DirtyError {
    DirtyError::Kernel {
        call,
        source: io::ErrorKind::OutOfMemory.into(),
    }
}
