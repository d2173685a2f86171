//! The program that carries the bytes of a stream.

use std::process::{Child, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take to end by itself when its input has ended: it may still have bytes to
/// carry to the other side.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take when it was asked to.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked for.
const TICK: Duration = Duration::from_millis(10);

/// A process that is ended, and waited for, when this is dropped.
#[derive(Debug)]
pub(crate) struct Carrier(Mutex<Child>);

impl Carrier {
    pub(super) fn new(child: Child) -> Self {
        Self(Mutex::new(child))
    }

    /// How it ended, in words; `None` if it does not end within a second.
    pub(super) fn end_in_words(&self) -> Option<String> {
        let status = self.wait(LAST_PATIENCE)?;
        Some(format!(
            "the program that carries the bytes has ended ({status})"
        ))
    }

    fn wait(&self, patience: Duration) -> Option<ExitStatus> {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + patience;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => thread::sleep(TICK),
                _ => return None,
            }
        }
    }

    fn pid(&self) -> Option<Pid> {
        let child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pid::from_raw(child.id().cast_signed())
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        for (patience, signal) in [(PATIENCE, Signal::TERM), (LAST_PATIENCE, Signal::KILL)] {
            if self.wait(patience).is_some() {
                return;
            }
            // Nobody has waited for it yet, so the number is still its own.
            if let Some(pid) = self.pid() {
                let _ = kill_process(pid, signal);
            }
        }
        self.wait(LAST_PATIENCE);
    }
}
