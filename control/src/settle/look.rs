//! Asking one QEMU what it shows, and its agent what was promised.

use std::path::{Path, PathBuf};

use pagelift_agent_protocol::{JournalEntry, JournalPhase};
use pagelift_engine::migration::settle::Observed;
use pagelift_engine::wire::SessionId;

use super::{NOTHING_RECORDED, Word};
use crate::agent_client::{AgentClient, AgentError};
use crate::driver::qemu::QemuMigrationError;
use crate::driver::qemu::inspect::run_state;
use crate::qmp::{Address, Qmp, QmpError};

/// Why a QEMU could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The monitor does not answer, or another program holds it.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// The agent is another program's, or does not answer.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// QEMU did not do what was asked.
    #[error(transparent)]
    Qemu(#[from] QemuMigrationError),
    /// Its monitor cannot be found again by the agent.
    #[error("{0} is no unix socket: settle by a monitor that is one")]
    NotUnix(Address),
    /// The guest was told to go on, and does not.
    #[error("the guest was told to go on, and its state is {0:?}")]
    DoesNotRun(String),
    /// There is no doubt that a person's word could end.
    #[error("{NOTHING_RECORDED}")]
    NothingRecorded,
    /// Nobody can settle a QEMU that is not there.
    #[error("there is no QEMU that could run the guest")]
    Gone,
}

/// One QEMU, as it shows itself now.
#[derive(Debug)]
pub struct Side {
    pub(super) qmp_path: PathBuf,
    pub(super) qemu: Option<Qemu>,
}

/// What was found of a QEMU that is there.
#[derive(Debug)]
pub(super) struct Qemu {
    pub(super) qmp: Qmp,
    pub(super) pid: u32,
    pub(super) run_state: String,
    /// The agent; nobody else uses it meanwhile.
    pub(super) agent: Option<AgentClient>,
    pub(super) record: Option<JournalEntry>,
}

impl Side {
    /// Asks the QEMU whose monitor is at `address`. As long as the value lives no other program can
    /// use that monitor or the agent.
    ///
    /// # Errors
    /// When somebody is there and does not answer: another program holds the monitor, or the agent.
    pub fn look(address: &Address) -> Result<Self, LookError> {
        let Address::Unix(path) = address else {
            return Err(LookError::NotUnix(address.clone()));
        };
        let qmp_path = std::path::absolute(path).map_err(|source| QmpError::Connect {
            address: address.to_string(),
            source,
        })?;
        let qmp = match Qmp::connect(address) {
            Ok(qmp) => qmp,
            Err(QmpError::Connect { source, .. }) if is_nobody(&source) => {
                let qemu = None;
                return Ok(Self { qmp_path, qemu });
            }
            Err(error) => return Err(error.into()),
        };
        let pid = qmp.peer_pid()?;
        let mut agent = match AgentClient::connect(pid) {
            Ok(agent) => Some(agent),
            Err(AgentError::NoAgent { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let record = match &mut agent {
            Some(agent) => match agent.keeps_journal()? {
                true => agent.journal()?,
                false => None,
            },
            None => None,
        };
        let run_state = run_state(&qmp)?;
        let qemu = Some(Qemu {
            qmp,
            pid,
            run_state,
            agent,
            record,
        });
        Ok(Self { qmp_path, qemu })
    }

    /// What it shows, to be compared with the other side.
    pub fn word(&self) -> Word {
        let Some(qemu) = &self.qemu else {
            return Word {
                observed: Observed::Gone,
                record: None,
            };
        };
        Word {
            observed: match qemu.run_state.as_str() {
                "running" | "suspended" => Observed::Running,
                _ => Observed::Stopped,
            },
            record: qemu
                .record
                .map(|record| (SessionId(record.session), record.phase)),
        }
    }

    /// The monitor's path.
    pub fn monitor(&self) -> &Path {
        &self.qmp_path
    }

    /// Whether its journal speaks of the migration `session`.
    pub fn is_of(&self, session: SessionId) -> bool {
        self.record()
            .is_some_and(|record| record.session == session.0)
    }

    /// QEMU's process; `None` if it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.qemu.as_ref().map(|qemu| qemu.pid)
    }

    /// QEMU's own word for the guest's state.
    pub fn run_state(&self) -> Option<&str> {
        self.qemu.as_ref().map(|qemu| qemu.run_state.as_str())
    }

    /// The last record of its journal.
    pub fn record(&self) -> Option<JournalEntry> {
        self.qemu.as_ref()?.record
    }

    /// Whether the guest may have left, or have come without leave to run: the other side must be asked.
    pub fn is_in_doubt(&self) -> bool {
        let has_left = matches!(self.run_state(), Some("postmigrate" | "finish-migrate"));
        has_left || self.word().needs_other()
    }

    /// Where the guest is, as far as this side can say: `here`, `elsewhere` or `unknown`; and why.
    pub fn guest(&self) -> (&'static str, &'static str) {
        let Some(qemu) = &self.qemu else {
            return (
                "unknown",
                "no QEMU listens on this monitor: it has ended, or was never there",
            );
        };
        if self.word().observed == Observed::Running {
            return ("here", "QEMU runs it");
        }
        let phase = qemu.record.map(|record| record.phase);
        match phase {
            None if qemu.run_state == "inmigrate" => (
                "elsewhere",
                "QEMU waits for a guest, and nothing was promised",
            ),
            None => ("unknown", "QEMU does not run it, and no journal says why"),
            Some(JournalPhase::Moving | JournalPhase::Kept) => {
                ("here", "it is stopped, and was not handed over")
            }
            Some(JournalPhase::HandedOver) => (
                "elsewhere",
                "it was handed over; whether it runs there, the target knows",
            ),
            Some(JournalPhase::Released) => ("elsewhere", "the target said that it runs there"),
            Some(JournalPhase::Prepared) => (
                "unknown",
                "all of it is here; whether it was handed over, the source knows",
            ),
            Some(JournalPhase::Granted) => ("here", "the source gave its word; it is stopped"),
            Some(JournalPhase::Running) => ("here", "it has run here; it is stopped"),
            Some(JournalPhase::Abandoned) => ("elsewhere", "it was left to the source"),
        }
    }
}

/// Whether nobody listens there: QEMU has ended, with or without removing its socket.
fn is_nobody(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
    )
}
