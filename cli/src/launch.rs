//! `pagelift run`: starts a QEMU whose guest can be moved.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use pagelift_control::driver::qemu::command_line::{self, MemoryIn};
use pagelift_control::qmp::Address;

/// File name of the agent.
const AGENT: &str = "libpagelift_agent.so";

/// Options of `pagelift run`.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// The agent library; by default the one beside this program, or in ../lib/pagelift
    #[arg(long, value_name = "PATH", env = "PAGELIFT_AGENT")]
    agent: Option<PathBuf>,
    /// Put the guest's memory into files in this folder (in /dev/shm, or on a hugetlbfs; made by
    /// `mkdir -m 700`, for nobody else may write to it), such as DIR/pc.ram. They stay when QEMU ends; when the guest comes back,
    /// `pagelift-receive --base` takes from them what has not changed
    #[arg(long, value_name = "DIR")]
    ram_dir: Option<PathBuf>,
    /// Have the memory of the QEMU behind this monitor, on this host, instead of new memory: for a QEMU
    /// that is to take its guest over (`--same-memory`). The rest of the command line is the same
    #[arg(long, value_name = "PATH", conflicts_with = "ram_dir")]
    memory_of: Option<Address>,
    /// Leave the session of the program that starts it, so that QEMU goes on when that ends
    #[arg(long, hide = true)]
    detach: bool,
    /// QEMU and its options
    #[arg(last = true, required = true, value_name = "QEMU")]
    command: Vec<OsString>,
}

/// Becomes QEMU; returns only if that failed.
///
/// # Errors
/// When the agent is not found, the command line cannot be made shareable, or QEMU cannot be
/// started.
pub fn run(options: RunOptions) -> Result<std::convert::Infallible> {
    let agent = match options.agent {
        Some(agent) => agent,
        None => find_agent()?,
    };
    if options.detach {
        rustix::process::setsid().context("leaving the session")?;
    }
    let memory = match (&options.memory_of, &options.ram_dir) {
        (Some(qmp), _) => MemoryIn::Other(qmp),
        (None, Some(dir)) => MemoryIn::Folder(dir),
        (None, None) => MemoryIn::Nameless,
    };
    Ok(command_line::run(options.command, &agent, memory)?)
}

/// The program that has `pagelift run`: beside this one.
///
/// # Errors
/// When this program is in no folder.
pub(crate) fn pagelift() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding this program")?;
    let folder = program.parent().context("this program is in no folder")?;
    Ok(folder.join("pagelift"))
}

/// The agent, where it is built or installed.
fn find_agent() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding this program")?;
    let folder = program.parent().context("this program is in no folder")?;
    let places = [
        folder.join(AGENT),
        folder.join("../lib/pagelift").join(AGENT),
    ];
    match places.iter().find(|place| place.is_file()) {
        Some(place) => Ok(place.clone()),
        None => bail!(
            "{AGENT} is neither in {} nor in {}; build it with `cargo build --release`, or name \
             it with --agent",
            folder.display(),
            folder.join("../lib/pagelift").display(),
        ),
    }
}
