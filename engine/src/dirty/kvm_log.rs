//! Dirty tracking by KVM's log: what the vCPUs of a machine of this process write.
//!
//! Where the kernel can, marks are cleared by hand (manual protection): a harvest copies the log, and
//! each page is protected again just before it is read, 64 pages or more at a time. So the guest pays no
//! fault for a page that goes later in the round, and the kernel does not hold its lock while it protects
//! all that was written.
//!
//! What it does not see: writes of the VMM's own devices, of system calls into guest memory, and of
//! vhost back ends. They are to be combined with it ([`Combined`](super::Combined)).
//!
//! # Why no write is lost
//!
//! A page is *reported* from the harvest that finds its mark until it is cleared. Clearing takes that note
//! away, then clears the mark, and then the page is read. A harvest that comes between the two finds the
//! mark once more and reports the page again, which is then cleared again before it is read again. One that
//! comes later finds the mark only if the page was written after it was cleared. While a page is reported
//! its mark says nothing new: it is to be read anyway, after it has been cleared.

#![allow(unsafe_code, reason = "the machine's slots are as the embedder says")]

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fd::OwnedFd;

use super::{ClearMarks, DirtyError, DirtySource};
use crate::memory::PageBitmap;
use crate::sys::{KvmSlot, KvmVm, SysError};
use crate::units::PageRange;

/// A slot of a machine, and the pages of the layout that it holds.
#[derive(Clone, Copy, Debug)]
pub struct LoggedSlot {
    /// The slot, as the machine has it.
    pub slot: KvmSlot,
    /// Its pages, in the layout.
    pub range: PageRange,
}

/// The pages that the vCPUs of a machine have written, from KVM's dirty log.
#[derive(Debug)]
pub struct KvmLog {
    log: Arc<Log>,
    /// How many slots are logged, from the first on.
    armed: usize,
    /// A copy of the log of one slot.
    copy: Vec<u64>,
    /// Harvested, but given back.
    pending: Option<PageBitmap>,
}

/// What harvests and data channels share.
#[derive(Debug)]
struct Log {
    vm: KvmVm,
    slots: Vec<Slot>,
    /// Whether marks stay until they are cleared.
    manual: AtomicBool,
}

#[derive(Debug)]
struct Slot {
    slot: KvmSlot,
    range: PageRange,
    /// The pages that were reported and not cleared since, a bit each.
    reported: Vec<AtomicU64>,
}

impl KvmLog {
    /// Tracks writes of the vCPUs of the machine `vm` to `slots`.
    ///
    /// # Panics
    /// If a slot has not as many bytes as its pages.
    ///
    /// # Safety
    /// The machine has these slots, as described, and they stay so for as long as this lives.
    pub unsafe fn new(vm: OwnedFd, slots: impl IntoIterator<Item = LoggedSlot>) -> Self {
        let slot = |LoggedSlot { slot, range }: LoggedSlot| {
            assert_eq!(slot.len_bytes, range.bytes().0, "as many bytes as pages");
            let words = range.count.0.div_ceil(64);
            Slot {
                slot,
                range,
                reported: (0..words).map(|_| AtomicU64::new(0)).collect(),
            }
        };
        Self {
            log: Arc::new(Log {
                vm: KvmVm::from_fd(vm),
                slots: slots.into_iter().map(slot).collect(),
                manual: AtomicBool::new(false),
            }),
            armed: 0,
            copy: Vec::new(),
            pending: None,
        }
    }
}

impl DirtySource for KvmLog {
    fn arm(&mut self) -> Result<(), DirtyError> {
        self.disarm();
        let manual = self.log.vm.enable_manual_protect()?;
        self.log.manual.store(manual, Ordering::Release);
        let log = Arc::clone(&self.log);
        for slot in &log.slots {
            for word in &slot.reported {
                word.store(0, Ordering::Relaxed);
            }
            // SAFETY: the constructor's contract.
            let logged = unsafe { log.vm.set_logging(&slot.slot, true) };
            if let Err(error) = logged {
                self.disarm();
                return Err(error.into());
            }
            self.armed += 1;
        }
        Ok(())
    }

    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        if let Some(pending) = self.pending.take() {
            into.union(&pending);
        }
        let manual = self.log.manual.load(Ordering::Acquire);
        for slot in &self.log.slots {
            self.copy.clear();
            self.copy.resize(slot.reported.len(), 0);
            // SAFETY: the constructor's contract: the slot has these pages.
            unsafe {
                self.log
                    .vm
                    .dirty_log(slot.slot.slot, slot.range.count.0, &mut self.copy)?;
            }
            for (index, (marks, reported)) in self.copy.iter().zip(&slot.reported).enumerate() {
                let new = match *marks {
                    0 => 0,
                    marks if manual => marks & !reported.fetch_or(marks, Ordering::AcqRel),
                    marks => marks,
                };
                into.insert_word(slot.range, index, new);
            }
        }
        Ok(())
    }

    fn clear_before_read(&self) -> Option<Arc<dyn ClearMarks>> {
        Some(Arc::clone(&self.log) as Arc<dyn ClearMarks>)
    }

    fn give_back(&mut self, pages: &PageBitmap) {
        match &mut self.pending {
            Some(pending) => pending.union(pages),
            None => self.pending = Some(pages.clone()),
        }
    }

    fn disarm(&mut self) {
        for slot in &self.log.slots[..std::mem::take(&mut self.armed)] {
            // SAFETY: the constructor's contract. It fails only for a machine that is gone.
            let _ = unsafe { self.log.vm.set_logging(&slot.slot, false) };
        }
    }
}

impl Drop for KvmLog {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl ClearMarks for Log {
    fn clear(&self, range: PageRange) -> io::Result<()> {
        if !self.manual.load(Ordering::Acquire) {
            return Ok(());
        }
        for slot in &self.slots {
            let own = slot.range;
            let first = range.first.0.max(own.first.0);
            let end = range.end().min(own.end());
            if first < end {
                let pages = first - own.first.0..end - own.first.0;
                self.clear_in(slot, pages).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }
}

impl Log {
    /// Clears the marks of the reported ones of `pages` of a slot.
    fn clear_in(&self, slot: &Slot, pages: Range<u64>) -> Result<(), SysError> {
        /// Words of a call, so that the kernel's lock is not held for long.
        const WORDS: usize = 16;
        let words = (pages.start / 64) as usize..pages.end.div_ceil(64) as usize;
        for first in words.clone().step_by(WORDS) {
            let count = (words.end - first).min(WORDS);
            let mut marks = [0; WORDS];
            for (index, word) in (first..).zip(&mut marks[..count]) {
                let mask = mask(index as u64 * 64, &pages);
                *word = slot.reported[index].fetch_and(!mask, Ordering::AcqRel) & mask;
            }
            if marks != [0; WORDS] {
                let first_page = first as u64 * 64;
                let left = slot.range.count.0 - first_page;
                let pages = left.min(count as u64 * 64) as u32;
                self.vm
                    .clear_dirty_log(slot.slot.slot, first_page, pages, &marks[..count])?;
            }
        }
        Ok(())
    }
}

/// The bits of the pages `from` to `from + 63` that are among `pages`.
fn mask(from: u64, pages: &Range<u64>) -> u64 {
    let first = pages.start.saturating_sub(from);
    let end = pages.end.saturating_sub(from).min(64);
    if first >= end {
        return 0;
    }
    (u64::MAX >> (64 - (end - first))) << first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PageCount;

    #[test]
    fn masks_and_insertions_agree() {
        assert_eq!(mask(64, &(0..64)), 0);
        assert_eq!(mask(64, &(0..200)), u64::MAX);
        assert_eq!(mask(64, &(70..72)), 0b11 << 6);
        assert_eq!(mask(0, &(63..65)), 1 << 63);
        let mut pages = PageBitmap::new(PageCount(300));
        pages.insert_word(PageRange::new(100, 200), 1, mask(64, &(70..90)));
        let expected = [PageRange::new(170, 20)];
        assert_eq!(pages.runs().collect::<Vec<_>>(), expected);
    }
}
