//! `pagelift run`: makes the memory files, preloads the agent and becomes QEMU.
//!
//! The process is replaced, not forked: QEMU keeps the pid, the terminal, the descriptors and
//! the parent that `pagelift run` had, so that a manager notices no difference.

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::borrowed::BorrowedMemory;
use super::files::MemoryFiles;
use super::{CommandLineError, make_shareable};
use crate::driver::qemu::InspectError;
use crate::qmp::Address;
use crate::remote::RunCommand;

/// The environment variable that names libraries to load first, ld.so(8).
const PRELOAD: &str = "LD_PRELOAD";

/// Where the memory is that has no file of its own on the command line.
#[derive(Clone, Copy, Debug)]
pub enum MemoryIn<'a> {
    /// In files without a name, which go with QEMU.
    Nameless,
    /// In files in this folder, which stay.
    Folder(&'a Path),
    /// In the files of the QEMU behind this monitor, on this host.
    Other(&'a Address),
}

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
    /// The memory of another QEMU cannot be taken.
    #[error("cannot take the memory of another QEMU: {0}")]
    Borrow(#[from] Box<InspectError>),
    /// The program could not be executed.
    #[error("cannot execute {}: {source}; is it installed, and in PATH?", program.display())]
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
/// of libpagelift_agent.so, `memory` where memory is that has no file of its own yet. Warnings go to
/// standard error.
///
/// # Errors
/// When the command line cannot be made shareable, the agent is missing, or the program cannot
/// be executed.
pub fn run(
    args: Vec<OsString>,
    agent_library: &Path,
    memory: MemoryIn<'_>,
) -> Result<Infallible, RunError> {
    let ram_dir = match memory {
        MemoryIn::Folder(dir) => Some(dir),
        MemoryIn::Nameless | MemoryIn::Other(_) => None,
    };
    // For a target that is to be started in the same way.
    let given = RunCommand::variable(&args, ram_dir);
    let (program, args) = args.split_first().ok_or(RunError::NoCommand)?;
    // The dynamic linker only warns of a library it does not find and goes on without.
    let agent = fs::canonicalize(agent_library).map_err(|source| RunError::NoAgent {
        path: agent_library.to_owned(),
        source,
    })?;
    let preload = preload_value(env::var_os(PRELOAD).as_deref(), &agent)
        .ok_or(RunError::AgentPath { path: agent })?;
    let (mut made, mut borrowed);
    let rewritten = match memory {
        MemoryIn::Other(qmp) => {
            borrowed = BorrowedMemory::of(qmp).map_err(Box::new)?;
            make_shareable(args, &mut borrowed)?
        }
        MemoryIn::Nameless | MemoryIn::Folder(_) => {
            made = MemoryFiles::new(ram_dir);
            make_shareable(args, &mut made)?
        }
    };
    for warning in &rewritten.warnings {
        eprintln!("pagelift run: warning: {warning}");
    }
    let source = Command::new(program)
        .args(&rewritten.args)
        .env(PRELOAD, preload)
        .envs(given)
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
    fn a_missing_agent_or_command_is_said_before_anything_happens() {
        let error = run(
            vec!["true".into()],
            Path::new("/nonexistent/agent.so"),
            MemoryIn::Nameless,
        )
        .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/agent.so"));
        assert!(matches!(
            run(vec![], Path::new("/"), MemoryIn::Nameless),
            Err(RunError::NoCommand)
        ));
    }
}
