//! A guest that writes all its memory all the time, without having any.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::dirty::{DirtyError, DirtySource};
use pagelift_engine::guest::{GuestError, Parts, SourceGuest, TargetGuest};
use pagelift_engine::memory::{GuestMemory, Layout, MemoryError, PageBitmap, ReadPages, Region};
use pagelift_engine::migration::Ownership;
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount, PageIndex, PageRange};

const PAGES: u64 = 4096;

/// Memory that always holds the same, and forgets what it is given.
pub struct Same(Layout);

impl Same {
    pub fn new() -> Arc<Self> {
        let region = Region {
            name: "ram".into(),
            pages: PageCount(PAGES),
            backing_page: ByteCount(PAGE_BYTES as u64),
        };
        Arc::new(Self(Layout::new(vec![region]).unwrap()))
    }
}

impl ReadPages for Same {
    fn layout(&self) -> &Layout {
        &self.0
    }

    fn read(&self, _: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        out.fill(0x5a);
        Ok(())
    }

    fn populated(&self, into: &mut PageBitmap) -> Result<(), MemoryError> {
        into.insert(PageRange::new(0, PAGES));
        Ok(())
    }
}

impl GuestMemory for Same {
    fn write(&self, _: PageIndex, _: &[u8]) -> Result<(), MemoryError> {
        Ok(())
    }

    fn write_zeros(&self, _: PageRange) -> Result<(), MemoryError> {
        Ok(())
    }
}

/// A guest that writes all its memory all the time.
#[derive(Default)]
pub struct Busy {
    pub armed: Arc<AtomicBool>,
}

impl DirtySource for Busy {
    fn arm(&mut self) -> Result<(), DirtyError> {
        self.armed.store(true, Ordering::Release);
        Ok(())
    }

    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        into.insert(PageRange::new(0, PAGES));
        Ok(())
    }

    fn give_back(&mut self, _: &PageBitmap) {}

    fn disarm(&mut self) {
        self.armed.store(false, Ordering::Release);
    }
}

/// The guest on the source.
#[derive(Default)]
pub struct Here {
    pub throttle: Arc<Mutex<ThrottleShare>>,
    parts: Option<Parts>,
}

impl SourceGuest for Here {
    fn attach(&mut self, parts: Parts) {
        self.parts = Some(parts);
    }

    fn throttle(&mut self, share: ThrottleShare) -> Result<(), GuestError> {
        *self.throttle.lock().unwrap() = share;
        Ok(())
    }

    fn stop(&mut self) -> Result<Duration, GuestError> {
        Ok(Duration::ZERO)
    }

    fn save_state(&mut self) -> Result<(), GuestError> {
        let parts = self.parts.as_ref().unwrap();
        parts.state.send(b"state", true).unwrap();
        Ok(())
    }

    fn give_up(&mut self) -> Result<(), GuestError> {
        Ok(())
    }

    fn resume(&mut self, _: &Ownership) -> Result<(), GuestError> {
        Ok(())
    }
}

/// The guest on the target.
#[derive(Default)]
pub struct There {
    parts: Option<Parts>,
}

impl TargetGuest for There {
    fn attach(&mut self, parts: Parts) -> Result<(), GuestError> {
        self.parts = Some(parts);
        Ok(())
    }

    fn is_loaded(&mut self) -> Result<bool, GuestError> {
        let parts = self.parts.as_ref().unwrap();
        Ok(parts.incoming.try_iter().any(|chunk| chunk.last))
    }

    fn run(&mut self, _: &Ownership) -> Result<(), GuestError> {
        Ok(())
    }

    fn abandon(&mut self) {}
}
