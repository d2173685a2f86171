//! Runs a rollback script: its steps, one by one, at QEMU's own monitor.
//!
//! The agent connects to the monitor's socket like any client, although it lives in the same
//! process: QEMU's main loop answers, and a thread of the agent waits. The monitor serves one
//! client at a time, and may still hold the connection of the client that died: a connection
//! hangs in the backlog without a greeting until then, so the agent waits, and tries again, until
//! its time is over. A monitor that another program (libvirt, say) keeps for itself is
//! never free: a rollback script needs one that is pagelift's alone. Whoever connects to it first after
//! the client's death goes before the agent. A monitor that refuses is not QEMU's any more, and
//! not waited for.
//!
//! A step that fails is tried again for a while ([`PERSISTENCE`]): right after
//! `migrate_cancel` QEMU refuses `cont` ("Migration is not finalized yet") and new capabilities
//! ("There's a migration process in progress") until its migration thread is done. One that goes
//! on failing does not stop the next ones: a script lists what may help. Everything together takes
//! at most [`TOTAL`]; clients are told meanwhile that the agent is busy.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use pagelift_agent_protocol::monitor::{Line, classify};
use pagelift_agent_protocol::{RollbackScript, RollbackStep};

use crate::own_monitor::OwnMonitor;
use crate::{complain, socket};

/// Longest time for the whole script, and for holding a guest in doubt.
pub(crate) const TOTAL: Duration = Duration::from_secs(10);

/// How long a command that fails is tried again.
const PERSISTENCE: Duration = Duration::from_secs(1);

/// Pause between two tries to connect, and between two tries of a command.
const RETRY: Duration = Duration::from_millis(20);

/// Longest line taken from the monitor in bytes; QEMU's greeting and replies are far shorter.
const LINE_BYTES_MAX: usize = 1 << 20;

/// What a client has asked for, should it be gone.
#[derive(Debug)]
pub(crate) struct Rollback {
    monitor: OwnMonitor,
    steps: Vec<RollbackStep>,
}

impl Rollback {
    /// Takes a script over.
    ///
    /// # Errors
    /// A text that says why its monitor is none of QEMU's.
    pub(crate) fn new(script: &RollbackScript) -> Result<Self, String> {
        Ok(Self {
            monitor: OwnMonitor::find(script.qmp_path())?,
            steps: script.steps().to_vec(),
        })
    }

    /// What is left of it when the guest is another's: migration settings are QEMU's, and are put back
    /// all the same.
    pub(crate) fn of_settings(self) -> Option<Self> {
        let is_setting = |step: &RollbackStep| {
            matches!(
                step,
                RollbackStep::SetCapabilities(_) | RollbackStep::SetParameters(_)
            )
        };
        let steps: Vec<_> = self.steps.into_iter().filter(is_setting).collect();
        let monitor = self.monitor;
        (!steps.is_empty()).then_some(Self { monitor, steps })
    }

    /// The monitor at which it runs.
    pub(crate) fn monitor(&self) -> &std::path::Path {
        self.monitor.path()
    }

    /// Takes all steps until `deadline`, whatever fails; failures go to standard error.
    pub(crate) fn run(&self, deadline: Instant) {
        let mut monitor = match Monitor::connect_until(&self.monitor, deadline) {
            Ok(monitor) => monitor,
            Err(error) => {
                let path = self.monitor.path();
                complain(format_args!(
                    "the rollback script does not run, monitor {path:?}: {error}"
                ));
                return;
            }
        };
        for step in &self.steps {
            let command = step.command();
            match monitor.persist(&command) {
                Ok((Line::Return, _)) => {}
                Ok((_, reply)) => complain(format_args!(
                    "rollback script: {command} failed: {}",
                    reply.trim_end()
                )),
                Err(error) => {
                    complain(format_args!("rollback script ended at {command}: {error}"));
                    return;
                }
            }
        }
    }
}

/// A connection to QEMU's monitor, ready for commands.
pub(crate) struct Monitor {
    stream: UnixStream,
    deadline: Instant,
    /// Bytes received after the last line taken.
    received: Vec<u8>,
}

impl Monitor {
    pub(crate) fn connect_until(own: &OwnMonitor, deadline: Instant) -> io::Result<Self> {
        loop {
            match Self::connect(own, deadline) {
                // What is gone does not come back; a monitor that is taken is freed.
                Err(error) if is_final(&error) || Instant::now() + RETRY >= deadline => {
                    return Err(error);
                }
                Err(_) => thread::sleep(RETRY),
                connected => return connected,
            }
        }
    }

    fn connect(own: &OwnMonitor, deadline: Instant) -> io::Result<Self> {
        let mut monitor = Self {
            stream: own.connect(time_until(deadline)?)?,
            deadline,
            received: Vec::new(),
        };
        monitor.line()?; // the greeting
        match monitor.execute(r#"{"execute":"qmp_capabilities"}"#)? {
            (Line::Return, _) => Ok(monitor),
            (_, reply) => Err(io::Error::other(reply)),
        }
    }

    /// Executes a command until it succeeds; the last reply, if it goes on failing.
    pub(crate) fn persist(&mut self, command: &str) -> io::Result<(Line, String)> {
        let give_up = Instant::now() + PERSISTENCE;
        loop {
            match self.execute(command)? {
                (Line::Error, _) if Instant::now() < give_up => thread::sleep(RETRY),
                reply => return Ok(reply),
            }
        }
    }

    /// Sends one command and waits for its reply.
    fn execute(&mut self, command: &str) -> io::Result<(Line, String)> {
        self.stream
            .set_write_timeout(Some(time_until(self.deadline)?))?;
        socket::send(&self.stream, format!("{command}\n").as_bytes(), None)?;
        loop {
            let line = self.line()?;
            match classify(&line) {
                Line::Other => {}
                kind => return Ok((kind, line)),
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.received.len() > LINE_BYTES_MAX {
                return Err(io::Error::other("a line of more than 1 MiB"));
            }
            self.stream
                .set_read_timeout(Some(time_until(self.deadline)?))?;
            let mut bytes = [0; 4096];
            match (&self.stream).read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a monitor that cannot be connected to stays so.
fn is_final(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::PermissionDenied
    )
}

/// Time until `deadline`; never zero, which would mean no limit to a socket.
fn time_until(deadline: Instant) -> io::Result<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
}
