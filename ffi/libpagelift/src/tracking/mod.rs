//! Sources of the set of written pages: page tables, KVM's log or rings, bitmaps in memory, callbacks.

pub mod bitmap;
pub mod callbacks;
pub mod kvm;
pub mod kvm_rings;

use std::sync::Arc;

use pagelift_engine::dirty::DirtySource;
use pagelift_engine::memory::{GuestMemory, Layout, PageBitmap};
use pagelift_engine::units::PageRange;

use self::bitmap::{Bitmap, FromBitmap};
use self::callbacks::{DirtyCallbacks, FromCallbacks};
use self::kvm::Machine;
use self::kvm_rings::Ringed;
use crate::call::Caller;
use crate::error::{Code, Fault};
use crate::ram::{self, Description, Ram};

/// A way to track writes.
#[derive(Clone, Debug)]
pub(crate) enum Tracking {
    PageTables,
    Bitmap(Bitmap),
    Callbacks(DirtyCallbacks),
    Kvm(Machine),
    KvmRings(Ringed),
}

impl Tracking {
    /// Adds the pages whose writes it knows to `known`. Callbacks and page tables know all.
    pub(crate) fn covers(&self, layout: &Layout, known: &mut PageBitmap) {
        match self {
            Self::PageTables | Self::Callbacks(_) => {
                known.insert(PageRange::new(0, layout.pages().0));
            }
            Self::Bitmap(bitmap) => known.insert(layout.region_range(bitmap.region)),
            Self::Kvm(machine) => machine.pages().for_each(|pages| known.insert(pages)),
            Self::KvmRings(ringed) => ringed.pages().for_each(|pages| known.insert(pages)),
        }
    }

    /// The engine's source of dirty pages.
    pub(crate) fn source(
        &self,
        ram: &Description,
        memory: &Arc<dyn GuestMemory>,
        caller: &Arc<Caller>,
    ) -> Result<Box<dyn DirtySource>, Fault> {
        let layout = memory.layout();
        Ok(match self {
            Self::PageTables => ram.page_tables(memory)?,
            Self::Bitmap(bitmap) => Box::new(FromBitmap::new(*bitmap, layout)),
            Self::Callbacks(callbacks) => {
                Box::new(FromCallbacks::new(*callbacks, layout, Arc::clone(caller)))
            }
            Self::Kvm(machine) => machine.source()?,
            Self::KvmRings(ringed) => ringed.source(layout),
        })
    }
}

/// Pages that were harvested and did not reach the target.
#[derive(Default)]
struct Lost(Option<PageBitmap>);

impl Lost {
    fn keep(&mut self, pages: &PageBitmap) {
        let lost = self
            .0
            .get_or_insert_with(|| PageBitmap::new(pages.capacity()));
        lost.union(pages);
    }

    fn take(&mut self, into: &mut PageBitmap) {
        if let Some(lost) = self.0.take() {
            into.union(&lost);
        }
    }
}

/// Tracks writes by the page tables of this process, with a userfaultfd of its own: writes of its
/// threads, of its KVM vCPUs, and of the kernel for it. Linux 6.7 or newer. This is what a source does if
/// no other way is named. Each region has an address.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// `ram` is a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_ram_track_page_tables(ram: *mut Ram) -> Code {
    // SAFETY: the caller's promise.
    unsafe { ram::track(ram, |_| Ok(Tracking::PageTables)) }
}
