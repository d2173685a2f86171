//! A program that leaves nothing behind, also when a signal ends it.
//!
//! What a signal ends is not dropped, and a thread that cleared up would race with the others,
//! which go on making things. So the work is done in a process of its own, which is killed
//! first and whose [beds](crate::bed) are cleared away after it. Its output, its input and its
//! exit code are the program's.
//!
//! Not covered: `kill -9` of the program itself. Its work then goes on to its end, and clears up.

use std::env;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::bed;

/// In the environment of the process that does the work: the id of the one that started it.
const SUPERVISOR: &str = "PAGELIFT_TEST_SUPERVISOR";

/// Does the work of `main`, so that nothing of its [beds](crate::bed) stays when SIGHUP, SIGINT
/// or SIGTERM ends the program, or any signal its work. `main` must do nothing before.
///
/// The exit code is 0, or 1 after an error, which is printed; or 128 and the signal's number, as
/// shells have it.
pub fn supervised(work: impl FnOnce() -> Result<()>) -> ExitCode {
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    let done = if parent.is_some() && env::var(SUPERVISOR).ok() == parent {
        work().map(|()| 0)
    } else {
        supervise().context("starting its own work").map(code)
    };
    match done {
        // Exit codes are of eight bits (exit(3)).
        Ok(code) => ExitCode::from(code.to_le_bytes()[0]),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn supervise() -> io::Result<ExitStatus> {
    // Before there is a child whose end could be missed.
    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGTERM])?;
    let mut worker = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(SUPERVISOR, std::process::id().to_string())
        .spawn()?;
    let status = end_of(&mut worker, &mut signals)?;
    if status.signal().is_some() {
        bed::remove_all(worker.id());
    }
    Ok(status)
}

/// Waits for it to end; on a signal other than SIGCHLD kills it, and says that signal.
fn end_of(worker: &mut Child, signals: &mut Signals) -> io::Result<ExitStatus> {
    for signal in signals.forever() {
        if signal != SIGCHLD {
            worker.kill()?;
            worker.wait()?;
            return Ok(ExitStatus::from_raw(signal));
        }
        if let Some(status) = worker.try_wait()? {
            return Ok(status);
        }
    }
    worker.wait()
}
