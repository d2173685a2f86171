//! Rewrites a QEMU command line so that the guest's RAM becomes a shared file.
//!
//! QEMU leaves RAM to pagelift (capability `x-ignore-shared`) only where it is a
//! `memory-backend-file` with `share=on`: the rule of QEMU 8.1 and later. So
//! - RAM without a backend (`-m` alone) gets one, named in `-machine memory-backend=`;
//! - `-mem-path` becomes such a backend on that path;
//! - backends of other kinds become one on a memfd, or on a file in a folder that the user
//!   names, their other properties kept;
//! - file backends gain `share=on`;
//! - what cannot be shared is refused with the reason and the way out;
//! - everything else stays as it is and where it is; new options go to the end.
//!
//! [`make_shareable`] is a pure function but for its [`Host`], which makes the memory files.
//! [`run`] is the whole of `pagelift run`: rewrite, then become QEMU with the agent preloaded.
//!
//! It does not check what QEMU itself checks (sizes that add up, identifiers that exist), and
//! does not know whether a path given by the user is on tmpfs or hugetlbfs, as tracking needs:
//! arming the tracking finds that out.

mod backend;
mod borrowed;
mod config_file;
mod files;
mod launch;
mod memory;
mod properties;
mod scan;
mod size;

use std::ffi::OsString;
use std::io;

pub use launch::{MemoryIn, RunError, run};
use memory::Memory;

/// RAM of a machine whose command line gives no size, in bytes: 128 MiB, as in QEMU.
pub const DEFAULT_RAM_BYTES: u64 = 128 << 20;

/// What the rewriting needs of the system.
pub trait Host {
    /// Makes a memory file for QEMU and returns the path by which QEMU will find it.
    ///
    /// # Errors
    /// When the system has no such memory.
    fn create_memory(&mut self, file: &MemoryFile) -> io::Result<String>;

    /// The text of a file given with `-readconfig`.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_config(&mut self, path: &str) -> io::Result<String>;
}

/// A file of memory to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryFile {
    /// Identifier of the backend it is for, for its name.
    pub id: String,
    /// Its size in bytes; a file of huge pages is rounded up to whole ones.
    pub size_bytes: u64,
    /// Huge pages, if asked for.
    pub huge_pages: Option<HugePages>,
}

/// Which huge pages a file is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Of the system's default size.
    Default,
    /// Of this many bytes, a power of two.
    OfBytes(u64),
}

/// A command line whose RAM is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareableCommand {
    /// QEMU's arguments, without the program's name.
    pub args: Vec<OsString>,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Why a command line cannot be made shareable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandLineError {
    /// A part that QEMU would not understand either, or that is not text.
    #[error("cannot read {option}: {reason}")]
    Unreadable {
        /// The option and its value.
        option: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Memory that cannot be shared.
    #[error("{what} cannot be migrated by pagelift: {reason}; {remedy}")]
    Unshareable {
        /// The memory.
        what: String,
        /// Why.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The memory file could not be made.
    #[error(
        "cannot make the memory of backend {id} ({size_bytes} bytes): {source}; \
         if it asks for huge pages, reserve them first (vm.nr_hugepages)"
    )]
    Memory {
        /// The backend.
        id: String,
        /// Its size.
        size_bytes: u64,
        /// The failure.
        source: io::Error,
    },
    /// A file given with `-readconfig` could not be read.
    #[error("cannot read {path}, given with -readconfig: {source}")]
    Config {
        /// The file.
        path: String,
        /// The failure.
        source: io::Error,
    },
}

/// Rewrites `args`, QEMU's arguments without the program's name.
///
/// A command line that only asks for help or the version is returned as it is, and so is one
/// that ends in an option without its value, for QEMU to complain of.
///
/// # Errors
/// When memory on it cannot be shared, or an option about memory cannot be understood.
pub fn make_shareable(
    args: &[OsString],
    host: &mut impl Host,
) -> Result<ShareableCommand, CommandLineError> {
    let options = scan::options(args);
    let mut rewritten = ShareableCommand {
        args: args.to_vec(),
        warnings: Vec::new(),
    };
    let mut memory = Memory::default();
    for option in &options {
        // Nothing may follow an option that lacks its value: it would be taken for the value.
        let is_broken = option.lacks_value();
        if is_broken || matches!(option.name.as_str(), "h" | "help" | "version") {
            return Ok(rewritten_unchanged(args));
        }
        let Some(value_at) = option.value_at else {
            continue;
        };
        if !READ_OPTIONS.contains(&option.name.as_str()) {
            continue;
        }
        let value = args[value_at]
            .to_str()
            .ok_or_else(|| CommandLineError::Unreadable {
                option: format!("-{} {}", option.name, args[value_at].display()),
                reason: "not UTF-8".into(),
            })?;
        if value == "help" || value == "?" {
            return Ok(rewritten_unchanged(args));
        }
        memory.note(option, value, &mut rewritten, host)?;
    }
    if memory.needs_backend() {
        memory.add_backend(&options, &mut rewritten, host)?;
    }
    Ok(rewritten)
}

/// Options whose values matter here; all others are not even looked at.
const READ_OPTIONS: [&str; 9] = [
    "M",
    "device",
    "m",
    "machine",
    "mem-path",
    "netdev",
    "numa",
    "object",
    "readconfig",
];

fn rewritten_unchanged(args: &[OsString]) -> ShareableCommand {
    ShareableCommand {
        args: args.to_vec(),
        warnings: Vec::new(),
    }
}

/// Has `host` make `file`; the path by which QEMU opens it.
fn path_of_new_file(file: MemoryFile, host: &mut impl Host) -> Result<String, CommandLineError> {
    host.create_memory(&file)
        .map_err(|source| CommandLineError::Memory {
            id: file.id,
            size_bytes: file.size_bytes,
            source,
        })
}

#[cfg(test)]
mod tests;
