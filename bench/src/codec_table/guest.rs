//! A guest without devices: nothing but a [`Writer`], if there is one, writes its memory.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::guest::{self, GuestError, SourceGuest, TargetGuest, Throttler};
use pagelift_engine::memory::{FileMemory, Layout, Region, RegionFile};
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount};

use crate::writer::Writer;

/// The memory in a file, all of it one region.
pub(crate) fn memory(path: &Path) -> Result<FileMemory> {
    let open = || -> Result<FileMemory> {
        let file = std::fs::File::options().read(true).write(true).open(path)?;
        let region = Region {
            name: "ram".into(),
            pages: PageCount(file.metadata()?.len() / PAGE_BYTES as u64),
            backing_page: ByteCount(PAGE_BYTES as u64),
        };
        let place = RegionFile { file, offset: 0 };
        Ok(FileMemory::new(Layout::new(vec![region])?, vec![place])?)
    };
    open().with_context(|| format!("{}", path.display()))
}

/// Either half of the guest, which has no device state.
#[derive(Debug, Default)]
pub(crate) struct Local {
    writer: Option<Writer>,
    /// CPU time that the writer used.
    writer_cpu: Duration,
}

impl Local {
    /// A guest that runs.
    pub(crate) fn writing(writer: Writer) -> Self {
        Self {
            writer: Some(writer),
            ..Self::default()
        }
    }

    /// CPU time that the guest used until it was stopped.
    pub(crate) fn cpu(&self) -> Duration {
        self.writer_cpu
    }
}

impl Throttler for Local {
    fn throttle(&mut self, share: ThrottleShare) -> guest::Result<()> {
        if let Some(writer) = &self.writer {
            writer.throttle(share);
        }
        Ok(())
    }
}

impl SourceGuest for Local {
    fn pause(&mut self) -> guest::Result<()> {
        if let Some(writer) = self.writer.take() {
            self.writer_cpu = writer
                .stop()
                .map_err(|error| GuestError(error.to_string()))?;
        }
        Ok(())
    }

    fn save_devices(&mut self, _: &mut dyn Write) -> guest::Result<()> {
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

impl TargetGuest for Local {
    fn load_devices(&mut self, _: &mut dyn Read) -> guest::Result<()> {
        Ok(())
    }

    fn run(&mut self) -> guest::Result<()> {
        Ok(())
    }
}
