//! The journal: what this QEMU's side of a hand-over has promised.
//!
//! It lives exactly as long as QEMU, so that a program that comes after a crash finds what the one
//! before has promised. A promise is not taken back, nor written over by another migration's before
//! it is settled: the agent refuses such a record.

use std::time::Instant;

use pagelift_agent_protocol::{ErrorCode, ErrorReply, JournalEntry, JournalPhase, RecordRequest};

use crate::own_monitor::OwnMonitor;

/// What was recorded last.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    last: Option<Record>,
}

#[derive(Debug)]
struct Record {
    session: u128,
    phase: JournalPhase,
    at: Instant,
    /// Where QEMU is kept from running a guest that may be another's.
    monitor: Option<OwnMonitor>,
}

impl Journal {
    /// Keeps a record in place of the one before.
    ///
    /// # Errors
    /// When it would take a promise back, or names a monitor that is not QEMU's.
    pub(crate) fn record(&mut self, request: &RecordRequest) -> Result<(), ErrorReply> {
        let (session, phase) = (request.session(), request.phase());
        if let Some(last) = &self.last
            && let Some(text) = last.forbids(session, phase)
        {
            let code = ErrorCode::AgainstPromise;
            return Err(ErrorReply { code, text });
        }
        let monitor = match request.qmp_path() {
            [] => None,
            path => Some(OwnMonitor::find(path).map_err(|text| ErrorReply {
                code: ErrorCode::NoMonitor,
                text,
            })?),
        };
        self.last = Some(Record {
            session,
            phase,
            at: Instant::now(),
            monitor,
        });
        Ok(())
    }

    /// What was recorded last, if anything.
    pub(crate) fn entry(&self) -> Option<JournalEntry> {
        let last = self.last.as_ref()?;
        let age = last.at.elapsed().as_millis();
        Some(JournalEntry {
            session: last.session,
            phase: last.phase,
            age_ms: u64::try_from(age).unwrap_or(u64::MAX),
        })
    }

    /// Where QEMU must be kept from running the guest while no client is there: it was promised
    /// away, or waits for the other side's word.
    pub(crate) fn in_doubt(&self) -> Option<OwnMonitor> {
        let last = self.last.as_ref()?;
        last.monitor.clone().filter(|_| last.phase.is_open())
    }
}

impl Record {
    /// Why `phase` of the migration `session` may not be recorded after this.
    fn forbids(&self, session: u128, phase: JournalPhase) -> Option<String> {
        let (before, after) = (self.phase.name(), phase.name());
        if session == self.session {
            return (!phase.may_follow(self.phase)).then(|| {
                format!("this migration is recorded as {before}: it cannot become {after}")
            });
        }
        (!phase.may_displace(self.phase)).then(|| {
            format!(
                "another migration is recorded as {before}, so that this guest may be another \
                 QEMU's: run 'pagelift settle' first"
            )
        })
    }
}
