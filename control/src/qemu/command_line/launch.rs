//! `pagelift run`: makes the memory files, preloads the agent and becomes QEMU.
//!
//! The process is replaced, not forked: QEMU keeps the pid, the terminal, the descriptors and
//! the parent that `pagelift run` had, so that a manager notices no difference.

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};

use super::{CommandLineError, Host, HugePages, MemoryFile, make_shareable};

/// The environment variable that names libraries to load first, ld.so(8).
const PRELOAD: &str = "LD_PRELOAD";

/// `MFD_HUGE_SHIFT` of memfd_create(2): the logarithm of the page size goes above this bit.
const HUGE_SHIFT: u32 = 26;

/// Why QEMU was not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// There is no command.
    #[error("no command given; write `pagelift run -- qemu-system-x86_64 ...`")]
    NoCommand,
    /// The agent's library is not there.
    #[error(
        "the agent {} cannot be loaded: {source}; build it with `cargo build -p pagelift-agent`",
        path.display()
    )]
    NoAgent {
        /// Where it was looked for.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The path of the agent's library cannot be written in `LD_PRELOAD`.
    #[error(
        "the agent {} has a space or a colon in its path, which LD_PRELOAD cannot hold; \
         move it",
        path.display()
    )]
    AgentPath {
        /// The path, all links resolved.
        path: PathBuf,
    },
    /// The command line cannot be made shareable.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// The program could not be executed.
    #[error("cannot execute {}: {source}", program.display())]
    Exec {
        /// The program.
        program: OsString,
        /// What is wrong.
        source: io::Error,
    },
}

/// Replaces this process by QEMU with shared RAM and the agent; does not return if it can.
///
/// `args` begins with the program, which is looked for in `PATH`. `agent_library` is the path
/// of libpagelift_agent.so. Warnings go to standard error.
///
/// # Errors
/// When the command line cannot be made shareable, the agent is missing, or the program cannot
/// be executed.
pub fn run(args: Vec<OsString>, agent_library: &Path) -> Result<Infallible, RunError> {
    let (program, args) = args.split_first().ok_or(RunError::NoCommand)?;
    // The dynamic linker only warns of a library it does not find and goes on without.
    let agent = fs::canonicalize(agent_library).map_err(|source| RunError::NoAgent {
        path: agent_library.to_owned(),
        source,
    })?;
    let preload = preload_value(env::var_os(PRELOAD).as_deref(), &agent)
        .ok_or(RunError::AgentPath { path: agent })?;
    let mut host = Inheriting { files: Vec::new() };
    let rewritten = make_shareable(args, &mut host)?;
    for warning in &rewritten.warnings {
        eprintln!("pagelift run: warning: {warning}");
    }
    let source = Command::new(program)
        .args(&rewritten.args)
        .env(PRELOAD, preload)
        .exec();
    Err(RunError::Exec {
        program: program.clone(),
        source,
    })
}

/// `LD_PRELOAD` with the agent after what was in it; `None` if the agent's path breaks it.
fn preload_value(existing: Option<&OsStr>, agent: &Path) -> Option<OsString> {
    let agent = agent.as_os_str();
    if agent.as_bytes().iter().any(|byte| b" :".contains(byte)) {
        return None;
    }
    let mut value = OsString::new();
    if let Some(existing) = existing.filter(|existing| !existing.is_empty()) {
        value.push(existing);
        value.push(":");
    }
    value.push(agent);
    Some(value)
}

/// Makes memfds that survive the exec: not close-on-exec, and open until it.
struct Inheriting {
    files: Vec<OwnedFd>,
}

impl Host for Inheriting {
    fn create_memory(&mut self, file: &MemoryFile) -> io::Result<RawFd> {
        let name = format!("pagelift-{}", file.id);
        let fd = memfd_create(name, memfd_flags(file.huge_pages))?;
        // The block size of a file of huge pages is that of the page, memfd_create(2).
        let block_bytes = u64::try_from(fstat(&fd)?.st_blksize).unwrap_or(1).max(1);
        let size_bytes = file
            .size_bytes
            .checked_next_multiple_of(block_bytes)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        ftruncate(&fd, size_bytes)?;
        let number = fd.as_raw_fd();
        self.files.push(fd);
        Ok(number)
    }

    fn read_config(&mut self, path: &str) -> io::Result<String> {
        fs::read_to_string(path)
    }
}

fn memfd_flags(huge_pages: Option<HugePages>) -> MemfdFlags {
    match huge_pages {
        None => MemfdFlags::empty(),
        Some(HugePages::Default) => MemfdFlags::HUGETLB,
        Some(HugePages::OfBytes(bytes)) => {
            MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(bytes.ilog2() << HUGE_SHIFT)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_joins_what_is_preloaded_already() {
        let agent = Path::new("/lib/agent.so");
        let value = |existing: Option<&str>| preload_value(existing.map(OsStr::new), agent);
        assert_eq!(value(None).unwrap(), "/lib/agent.so");
        assert_eq!(value(Some("")).unwrap(), "/lib/agent.so");
        assert_eq!(value(Some("/a.so")).unwrap(), "/a.so:/lib/agent.so");
        assert_eq!(preload_value(None, Path::new("/my lib/agent.so")), None);
        assert_eq!(preload_value(None, Path::new("/a:b/agent.so")), None);
    }

    #[test]
    fn huge_page_sizes_go_into_the_flags() {
        let of = |bytes| memfd_flags(Some(HugePages::OfBytes(bytes)));
        assert_eq!(of(2 << 20), MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB);
        assert_eq!(of(1 << 30), MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB);
    }

    #[test]
    fn a_memory_file_has_its_size_and_survives_exec() {
        let mut host = Inheriting { files: Vec::new() };
        let file = MemoryFile {
            id: "t".into(),
            size_bytes: 5000,
            huge_pages: None,
        };
        let number = host.create_memory(&file).unwrap();
        assert_eq!(host.files[0].as_raw_fd(), number);
        assert_eq!(fstat(&host.files[0]).unwrap().st_size, 8192);
        let flags = rustix::io::fcntl_getfd(&host.files[0]).unwrap();
        assert!(flags.is_empty());
    }

    #[test]
    fn a_missing_agent_or_command_is_said_before_anything_happens() {
        let error = run(vec!["true".into()], Path::new("/nonexistent/agent.so")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/agent.so"));
        assert!(matches!(
            run(vec![], Path::new("/")),
            Err(RunError::NoCommand)
        ));
    }
}
