//! Huge pages for a test: the pool is raised, and put back.
//!
//! The pool is the machine's, so all tests that use it take turns, also those of another run.

use std::fs::{self, File};

use rustix::fs::{FlockOperation, flock};

use crate::skip::Skip;

/// Pages of the default size; "Hugetlb pages" of the kernel's documentation.
const POOL: &str = "/proc/sys/vm/nr_hugepages";

/// Size of a huge page of the default pool on x86-64.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Huge pages that are there until this is dropped.
#[derive(Debug)]
pub struct HugePages {
    before: u64,
    /// Open, and with it locked, for as long as the pages are needed.
    _turn: File,
}

impl HugePages {
    /// Adds pages for `bytes` bytes to the pool. Takes root, and enough free memory in one
    /// piece.
    pub fn reserve(bytes: u64) -> Result<Self, Skip> {
        let lacking = |error: std::io::Error| Skip(format!("{POOL}: {error}; run as root"));
        let turn = File::options().write(true).open(POOL).map_err(lacking)?;
        flock(&turn, FlockOperation::LockExclusive).map_err(|errno| lacking(errno.into()))?;
        let before = pool()?;
        let wanted = before + bytes.div_ceil(HUGE_PAGE_BYTES);
        // From here on, dropping it puts the pool back.
        let pages = Self {
            before,
            _turn: turn,
        };
        fs::write(POOL, wanted.to_string()).map_err(lacking)?;
        let got = pool()?;
        if got < wanted {
            return Err(Skip(format!("the kernel has {got} of {wanted} huge pages")));
        }
        Ok(pages)
    }
}

fn pool() -> Result<u64, Skip> {
    let text = fs::read_to_string(POOL).map_err(|error| Skip(format!("{POOL}: {error}")))?;
    let count = text.trim().parse();
    count.map_err(|_| Skip(format!("{POOL} holds {text:?}")))
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Fails only where raising it failed too.
        let _ = fs::write(POOL, self.before.to_string());
    }
}
