//! Setting up the arrival of a guest: a driver, an address, files with pages that are here
//! already, and the engine's door.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pagelift_engine::Incoming;
use pagelift_engine::memory::{FileMemory, GuestMemory, MemoryError, ReadPages, SharedMemory};
use pagelift_engine::migration::MigrationError;
use pagelift_engine::pipeline::{BasePages, Controls};
use pagelift_engine::sys::{SysError, random_number};
use pagelift_engine::units::{ByteCount, PageCount};
use pagelift_transports::{Endpoint, Security};
use tracing::warn;

use crate::driver::{Driver, DriverError, InspectedTarget};

/// The guest of a driver of type `D` on the target.
type TargetOf<D> = <<D as Driver>::Target as InspectedTarget>::Guest;

/// A hypervisor that waits for a guest.
#[derive(Debug)]
pub struct IncomingJob<G> {
    /// The engine's side of it.
    pub incoming: Incoming<G>,
    /// Size of the guest's memory.
    pub size: ByteCount,
    /// Pages of the base files.
    pub base_pages: PageCount,
}

/// Why no guest is waited for.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// The address, the hypervisor or a base file cannot be used.
    #[error(transparent)]
    Refused(#[from] MigrationError),
    /// The kernel gives no random numbers.
    #[error(transparent)]
    Random(#[from] SysError),
}

/// Has `driver` look at its hypervisor and prepare it, to wait at `listen` for a guest, from a
/// source that is known as `security` says. What is in the files `base` need not be sent.
///
/// # Errors
/// When the address, the hypervisor or one of the files cannot be used; all is as it was.
pub fn prepare_incoming<D: Driver>(
    driver: &D,
    listen: &Endpoint,
    security: &Security,
    base: &[PathBuf],
    controls: Controls,
) -> Result<IncomingJob<TargetOf<D>>, IncomingError> {
    let pages = BasePages::open(base, random_number()?).map_err(MigrationError::from)?;
    let listener = listen
        .listen_with(security)
        .map_err(|source| MigrationError::Link {
            what: "cannot listen",
            source,
        })?;
    let refused = |error: DriverError| MigrationError::Guest(error.to_string());
    let inspected = driver.inspect_target().map_err(refused)?;
    let properties = inspected.properties();
    let prepared = inspected.prepare().map_err(refused)?;
    for path in base {
        check_base(path, &prepared.memory).map_err(MigrationError::from)?;
        if std::fs::metadata(path).is_ok_and(|file| is_open_to_all(file.mode())) {
            // Not refused: an image may well be public.
            warn!(
                "everybody on this host may read the base file {path:?}; if it is the memory of a \
                 guest, `chmod 600` it"
            );
        }
    }
    let size = prepared.memory.layout().pages().bytes();
    let base_pages = pages.pages();
    let memory: Arc<dyn GuestMemory> = match listen {
        // The network card writes it by its addresses here.
        Endpoint::Rdma { .. } => {
            Arc::new(SharedMemory::map(prepared.memory).map_err(MigrationError::from)?)
        }
        _ => prepared.memory,
    };
    let incoming = Incoming::new(listener, memory, prepared.guest)
        .controls(controls)
        .properties(properties)
        .persistent(prepared.persistent)
        .base(pages);
    Ok(IncomingJob {
        incoming,
        size,
        base_pages,
    })
}

/// Whether others than owner and group may read a file of this mode.
fn is_open_to_all(mode: u32) -> bool {
    mode & 0o004 != 0
}

/// That a base file is not the guest's own memory, which is cleared before the guest comes.
fn check_base(path: &Path, memory: &FileMemory) -> Result<(), MemoryError> {
    if !std::fs::metadata(path).is_ok_and(|file| memory.is_in(&file)) {
        return Ok(());
    }
    Err(MemoryError::Io {
        action: "use",
        region: path.display().to_string(),
        offset: 0,
        source: std::io::Error::other(
            "it is the memory of the QEMU that waits here; keep the old file under another name, \
             let QEMU have a new one, and name the old one",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::is_open_to_all;

    #[test]
    fn only_what_everybody_may_read_is_warned_of() {
        assert!(is_open_to_all(0o100_644));
        assert!(is_open_to_all(0o100_004));
        assert!(!is_open_to_all(0o100_640));
        assert!(!is_open_to_all(0o100_600));
    }
}
