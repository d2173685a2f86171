//! Base pages of a target: some of the guest's as it was, where they were or elsewhere; and a
//! file of them that changes, or cannot be read, at any time.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use pagelift_engine::memory::{Layout, MemoryError, PageBitmap, ReadPages, Region};
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount, PageRange};
use pagelift_transports::sim::SimRng;

use super::crew;
use super::memory::SimMemory;
use super::plan::BasePagesPlan;

#[derive(Debug)]
pub struct SimBasePages {
    layout: Layout,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    content: Vec<u8>,
    rng: SimRng,
    changes_one_in: Option<u64>,
}

impl SimBasePages {
    /// What is left of `guest` as it is now.
    pub fn of(guest: &SimMemory, plan: BasePagesPlan, mut rng: SimRng) -> Arc<dyn ReadPages> {
        let mut content = guest.content();
        let pages = content.len() / PAGE_BYTES;
        for page in content.chunks_mut(PAGE_BYTES) {
            if rng.unit() >= plan.share {
                page[rng.below(PAGE_BYTES as u64) as usize] ^= 1;
            }
        }
        if plan.elsewhere {
            content.rotate_left(rng.below(pages as u64) as usize * PAGE_BYTES);
        }
        let region = Region {
            name: "base".into(),
            pages: PageCount(pages as u64),
            backing_page: ByteCount(4096),
        };
        Arc::new(Self {
            layout: Layout::new(vec![region]).expect("one region"),
            state: Mutex::new(State {
                content,
                rng,
                changes_one_in: plan.changes_one_in,
            }),
        })
    }
}

impl ReadPages for SimBasePages {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        crew::meanwhile();
        let failed = |kind: io::ErrorKind| MemoryError::Io {
            action: "read",
            region: "base".into(),
            offset: range.first.0,
            source: kind.into(),
        };
        if !self.layout.contains(range) {
            return Err(failed(io::ErrorKind::UnexpectedEof));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one_in) = state.changes_one_in
            && state.rng.one_in(one_in)
        {
            if state.rng.one_in(4) {
                return Err(failed(io::ErrorKind::UnexpectedEof));
            }
            let length = state.content.len() as u64;
            let at = state.rng.below(length) as usize;
            state.content[at] ^= 0x20;
        }
        let at = range.first.0 as usize * PAGE_BYTES;
        out.copy_from_slice(&state.content[at..at + out.len()]);
        Ok(())
    }

    fn populated(&self, into: &mut PageBitmap) -> Result<(), MemoryError> {
        into.insert(PageRange::new(0, self.layout.pages().0));
        Ok(())
    }
}
