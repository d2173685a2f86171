//! Dirty tracking by KVM's dirty rings: each vCPU has a list of the pages that it writes.
//!
//! To harvest costs what was written, not what the guest has, and each vCPU's writes are counted, so that
//! a throttle slows down the one that writes. A full ring stops its vCPU: KVM_RUN returns with
//! KVM_EXIT_DIRTY_RING_FULL, its thread calls [`KvmRings::reap`], and runs it again. So no thread has to
//! watch the rings.
//!
//! What the rings do not see is what [`KvmLog`](super::KvmLog) does not see either: writes of the VMM's own
//! devices, of system calls into guest memory, and of vhost back ends.
//!
//! # Why no write is lost
//!
//! An entry is taken out, its page noted, and then the page protected again (KVM_RESET_DIRTY_RINGS), all
//! under one lock. Pages are read after a harvest has returned, hence after that. A write between the entry
//! and the protection makes no new entry, but comes before the read; one after it makes one. Entries that
//! a processor still keeps to itself while its vCPU runs (page modification logging) are in the ring once
//! the vCPU has left the guest, which it has before the last harvest.

#![allow(unsafe_code, reason = "the machine's slots are as the embedder says")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fd::{BorrowedFd, OwnedFd};

use super::{DirtyError, DirtySource, LoggedSlot};
use crate::memory::PageBitmap;
use crate::sys::{KvmRing, KvmVm};
use crate::units::{PageCount, PageRange};

/// The dirty rings of a machine's vCPUs; clones are the same rings.
///
/// One for the life of the machine: it knows how far each ring was read.
#[derive(Clone, Debug)]
pub struct KvmRings {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    vm: KvmVm,
    rings: Mutex<Rings>,
}

#[derive(Debug)]
struct Rings {
    rings: Vec<KvmRing>,
    /// Where entries go while a tracker is armed.
    sink: Option<Sink>,
}

/// What an armed tracker has gathered.
#[derive(Debug)]
struct Sink {
    /// Slot number to pages of the layout.
    slots: HashMap<u32, PageRange>,
    gathered: PageBitmap,
    /// Pages that each vCPU was the first to write after a harvest, since arming.
    written: Vec<u64>,
}

impl KvmRings {
    /// The rings of `vcpus`, in the order of their index.
    ///
    /// # Errors
    /// When the machine has no rings.
    ///
    /// # Panics
    /// If `entries` is no power of two.
    ///
    /// # Safety
    /// `vm` was given rings of `entries` entries (16 bytes each), the vCPUs are its own and all of them, and
    /// nobody else takes entries out.
    pub unsafe fn new(
        vm: OwnedFd,
        vcpus: &[BorrowedFd<'_>],
        entries: usize,
    ) -> Result<Self, DirtyError> {
        let vm = KvmVm::from_fd(vm);
        // The kernel maps what is not there, and kills who reads it.
        vm.reset_rings().map_err(|error| DirtyError::Unsupported {
            what: format!("the machine has no dirty rings: {error}"),
            remedy: "enable KVM_CAP_DIRTY_LOG_RING_ACQ_REL before its vCPUs are made (Linux 5.11)"
                .into(),
        })?;
        // SAFETY: the caller's promise.
        let map = |vcpu: &BorrowedFd<'_>| unsafe { KvmRing::map(*vcpu, entries) };
        let rings = vcpus.iter().map(map).collect::<Result<_, _>>()?;
        Ok(Self {
            shared: Arc::new(Shared {
                vm,
                rings: Mutex::new(Rings { rings, sink: None }),
            }),
        })
    }

    /// Takes all entries out, so that vCPUs whose rings were full can run again. What was written is
    /// reported by the next harvest, or dropped if nobody tracks.
    ///
    /// From any thread, those of vCPUs above all.
    ///
    /// # Errors
    /// When the kernel fails.
    pub fn reap(&self) -> Result<(), DirtyError> {
        self.reap_locked(&mut self.lock())
    }

    /// A tracker of writes to `slots` of a layout of `pages` pages. One at a time can be armed.
    ///
    /// # Panics
    /// If a slot has not as many bytes as its pages.
    ///
    /// # Safety
    /// The machine has these slots, as described, and they stay so for as long as the tracker lives.
    pub unsafe fn tracker(&self, slots: Vec<LoggedSlot>, pages: PageCount) -> KvmRingTracker {
        for LoggedSlot { slot, range } in &slots {
            assert_eq!(slot.len_bytes, range.bytes().0, "as many bytes as pages");
        }
        KvmRingTracker {
            rings: self.clone(),
            slots,
            pages,
            armed: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rings> {
        let lock = self.shared.rings.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    fn reap_locked(&self, state: &mut Rings) -> Result<(), DirtyError> {
        let Rings { rings, sink } = state;
        for (vcpu, ring) in rings.iter_mut().enumerate() {
            ring.take(|slot, page| {
                if let Some(sink) = sink {
                    sink.note(vcpu, slot, page);
                }
            });
        }
        self.shared.vm.reset_rings()?;
        Ok(())
    }
}

impl Sink {
    fn note(&mut self, vcpu: usize, slot: u32, page: u64) {
        let Some(range) = self.slots.get(&slot).filter(|range| page < range.count.0) else {
            // Of a slot that somebody else has logged.
            return;
        };
        // A vCPU may have a page in its ring twice, and two vCPUs the same.
        let page = range.first.0 + page;
        if !self.gathered.contains(page) {
            self.gathered.insert(PageRange::new(page, 1));
            self.written[vcpu] += 1;
        }
    }
}

/// The pages that the vCPUs of a machine have written, from their dirty rings.
#[derive(Debug)]
pub struct KvmRingTracker {
    rings: KvmRings,
    slots: Vec<LoggedSlot>,
    pages: PageCount,
    /// How many slots are logged, from the first on, while it is armed.
    armed: Option<usize>,
}

impl DirtySource for KvmRingTracker {
    fn arm(&mut self) -> Result<(), DirtyError> {
        self.disarm();
        {
            let mut state = self.rings.lock();
            if state.sink.is_some() {
                return Err(DirtyError::Unsupported {
                    what: "the machine's dirty rings are read for another migration".into(),
                    remedy: "wait until it has ended".into(),
                });
            }
            // What was written while nobody tracked is of no interest.
            self.rings.reap_locked(&mut state)?;
            let slot = |slot: &LoggedSlot| (slot.slot.slot, slot.range);
            state.sink = Some(Sink {
                slots: self.slots.iter().map(slot).collect(),
                gathered: PageBitmap::new(self.pages),
                written: vec![0; state.rings.len()],
            });
        }
        let armed = self.armed.insert(0);
        for slot in &self.slots {
            // SAFETY: the constructor's contract.
            let logged = unsafe { self.rings.shared.vm.set_logging(&slot.slot, true) };
            if let Err(error) = logged {
                self.disarm();
                return Err(error.into());
            }
            *armed += 1;
        }
        Ok(())
    }

    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        let mut state = self.rings.lock();
        self.rings.reap_locked(&mut state)?;
        if let Some(sink) = &mut state.sink {
            into.union(&sink.gathered);
            sink.gathered.clear();
        }
        Ok(())
    }

    fn written_by(&mut self) -> Option<Vec<u64>> {
        let state = self.rings.lock();
        state.sink.as_ref().map(|sink| sink.written.clone())
    }

    fn give_back(&mut self, pages: &PageBitmap) {
        if let Some(sink) = &mut self.rings.lock().sink {
            sink.gathered.union(pages);
        }
    }

    fn disarm(&mut self) {
        let Some(armed) = self.armed.take() else {
            return;
        };
        for slot in &self.slots[..armed] {
            // SAFETY: the constructor's contract. It fails only for a machine that is gone.
            let _ = unsafe { self.rings.shared.vm.set_logging(&slot.slot, false) };
        }
        self.rings.lock().sink = None;
    }
}

impl Drop for KvmRingTracker {
    fn drop(&mut self) {
        self.disarm();
    }
}
