//! Limits of a program that holds a guest's pages.
//!
//! *No cores.* They would hold pages of the guest. A limit of one byte is too little for any core
//! file, and core(5) has a handler behind a pipe not started for it, which a limit of zero does
//! not. The alternative, `PR_SET_DUMPABLE` 0, takes `/proc/self` from a program without
//! privileges; `MADV_DONTDUMP` reaches only the buffers that one remembers.
//!
//! *No death by SIGXFSZ.* A file limit is then the error of the write, with its reason, on both
//! sides.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::SIGXFSZ;
use signal_hook::flag;
use tracing::warn;

/// Asks for both. What is refused is warned of: a guest can be moved without.
pub(crate) fn prepare() {
    let limit = Rlimit {
        current: Some(1),
        ..getrlimit(Resource::Core)
    };
    // One that is zero already stays so.
    if getrlimit(Resource::Core).maximum != Some(0)
        && let Err(error) = setrlimit(Resource::Core, limit)
    {
        warn!("should this program crash, its core may hold pages of the guest: {error}");
    }
    // A signal that has a handler kills nobody; nobody reads the flag.
    if let Err(error) = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))) {
        warn!("SIGXFSZ stays deadly: {error}");
    }
}
