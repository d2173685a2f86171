//! A guest without devices: nothing but a [`Writer`], if there is one, writes its memory.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::guest::{GuestError, Parts, SourceGuest, TargetGuest};
use pagelift_engine::memory::{FileMemory, Layout, Region, RegionFile};
use pagelift_engine::migration::Ownership;
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

/// Either half of the guest; knows its other half once a migration has begun.
#[derive(Debug, Default)]
pub(crate) struct Local {
    parts: Option<Parts>,
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

    fn parts(&self) -> Result<&Parts, GuestError> {
        let parts = self.parts.as_ref();
        parts.ok_or_else(|| GuestError("no migration has begun".into()))
    }
}

impl SourceGuest for Local {
    fn attach(&mut self, parts: Parts) {
        self.parts = Some(parts);
    }

    fn throttle(&mut self, share: ThrottleShare) -> Result<(), GuestError> {
        if let Some(writer) = &self.writer {
            writer.throttle(share);
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<Duration, GuestError> {
        if let Some(writer) = self.writer.take() {
            self.writer_cpu = writer
                .stop()
                .map_err(|error| GuestError(error.to_string()))?;
        }
        Ok(Duration::ZERO)
    }

    fn save_state(&mut self) -> Result<(), GuestError> {
        let sent = self.parts()?.state.send(&[], true);
        sent.map_err(|error| GuestError(format!("sending state: {error}")))
    }

    fn give_up(&mut self) -> Result<(), GuestError> {
        Ok(())
    }

    fn resume(&mut self, _ownership: &Ownership) -> Result<(), GuestError> {
        Ok(())
    }
}

impl TargetGuest for Local {
    fn attach(&mut self, parts: Parts) -> Result<(), GuestError> {
        self.parts = Some(parts);
        Ok(())
    }

    fn is_loaded(&mut self) -> Result<bool, GuestError> {
        let chunk = self.parts()?.incoming.try_recv();
        Ok(chunk.is_ok_and(|chunk| chunk.last))
    }

    fn run(&mut self, _ownership: &Ownership) -> Result<(), GuestError> {
        Ok(())
    }

    fn abandon(&mut self) {}
}
