//! A guest that writes all its memory all the time, without having any.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::dirty::{DirtyError, DirtySource};
use pagelift_engine::guest::{self, SourceGuest, TargetGuest, Throttler};
use pagelift_engine::memory::{GuestMemory, Layout, MemoryError, PageBitmap, ReadPages, Region};
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
}

impl SourceGuest for Here {
    fn pause(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn save_devices(&mut self, out: &mut dyn Write) -> guest::Result<()> {
        out.write_all(b"state").unwrap();
        Ok(())
    }

    fn relinquish(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn resume(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn throttler(&mut self) -> Option<&mut dyn Throttler> {
        Some(self)
    }
}

impl Throttler for Here {
    fn throttle(&mut self, share: ThrottleShare) -> guest::Result<()> {
        *self.throttle.lock().unwrap() = share;
        Ok(())
    }
}

/// The guest on the target.
#[derive(Default)]
pub struct There;

impl TargetGuest for There {
    fn load_devices(&mut self, state: &mut dyn Read) -> guest::Result<()> {
        let mut bytes = Vec::new();
        state.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"state");
        Ok(())
    }

    fn run(&mut self) -> guest::Result<()> {
        Ok(())
    }
}
