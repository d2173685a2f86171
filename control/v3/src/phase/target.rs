//! The target: Prepare, Finish.

use super::{Answer, Client, Refusal};
use crate::domain::words::words;

/// How much of the guest has come, as the hypervisor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// Nobody has sent anything yet, or the source did not say that it has sent all: Perform's cookie is
    /// that word, between two daemons of this kind.
    Nothing,
    /// Some of it, or all.
    Some,
    /// It failed.
    Failed,
}

/// What the target has to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAction {
    /// The guest's processors start, unless it is to stay paused; [`Target::started`] follows.
    Start,
    /// QEMU ends, and what was made for the guest is removed, the record last.
    Destroy,
}

words! {
    /// What a daemon has to know of a target after it was killed.
    pub enum TargetRecord {
        /// The guest may come in, and does not run.
        Prepared = "prepared",
        /// The guest is this side's. It may not run yet.
        Running = "running",
    }
}

/// The target of one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// There is no such guest, or it has been dropped.
    #[default]
    Empty,
    /// QEMU waits for the guest.
    Prepared {
        /// Whose connection it lives by.
        client: Client,
    },
    /// The guest is this side's: its processors are being started.
    Starting {
        /// Whether the source may know of it already.
        told: bool,
    },
    /// The guest runs.
    Running,
}

impl Target {
    /// Prepare.
    ///
    /// # Errors
    ///
    /// [`Refusal::AlreadyActive`].
    pub const fn prepare(&mut self, client: Client) -> Result<(), Refusal> {
        match self {
            Self::Empty => {
                *self = Self::Prepared { client };
                Ok(())
            }
            _ => Err(Refusal::AlreadyActive),
        }
    }

    /// Finish: the guest is to run here, or not (`cancelled`).
    ///
    /// When this returns [`TargetAction::Start`] and the record is written, the guest is this side's.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoGuest`], [`Refusal::NotIncoming`] for one that runs; [`Refusal::NotArrived`] for one
    /// that nobody has sent: it goes on waiting.
    pub fn finish(
        &mut self,
        cancelled: bool,
        incoming: Incoming,
    ) -> Result<Vec<TargetAction>, Refusal> {
        match (*self, incoming) {
            (Self::Empty, _) => Err(Refusal::NoGuest),
            (Self::Starting { .. } | Self::Running, _) => Err(Refusal::NotIncoming),
            (Self::Prepared { .. }, Incoming::Nothing) if !cancelled => Err(Refusal::NotArrived),
            (Self::Prepared { .. }, Incoming::Some) if !cancelled => {
                *self = Self::Starting { told: false };
                Ok(vec![TargetAction::Start])
            }
            (Self::Prepared { .. }, _) => {
                *self = Self::Empty;
                Ok(vec![TargetAction::Destroy])
            }
        }
    }

    /// The processors have started, or could not. One that could not be started has never run, and is
    /// dropped: the source may have it back. Where the source may know of it already, it stays.
    pub fn started(&mut self, started: bool) -> Vec<TargetAction> {
        match self {
            Self::Starting { told } if started || *told => {
                *self = Self::Running;
                Vec::new()
            }
            Self::Starting { .. } => self.drop_guest(),
            _ => Vec::new(),
        }
    }

    /// A client's connection has ended: a guest that waits because of it is dropped.
    pub fn client_lost(&mut self, lost: Client) -> Vec<TargetAction> {
        match self {
            Self::Prepared { client } if *client == lost => self.drop_guest(),
            _ => Vec::new(),
        }
    }

    /// The source asks what has become of the guest. Asking decides: a guest that is not this side's
    /// when it is asked for will never be.
    ///
    /// The answer may be sent when the record is written and the actions are done. While the processors
    /// are being started there is none yet.
    pub fn asked(&mut self) -> (Option<Answer>, Vec<TargetAction>) {
        match self {
            Self::Empty => (Some(Answer::Dropped), Vec::new()),
            Self::Prepared { .. } => (Some(Answer::Dropped), self.drop_guest()),
            Self::Starting { .. } => (None, Vec::new()),
            Self::Running => (Some(Answer::Runs), Vec::new()),
        }
    }

    /// QEMU has ended by itself, or somebody has ended it.
    ///
    /// A guest that was this side's is lost; it is not given back, for it may have written to its disks.
    pub const fn guest_died(&mut self) {
        if matches!(self, Self::Prepared { .. }) {
            *self = Self::Empty;
        }
    }

    /// What is to be known after the daemon was killed.
    #[must_use]
    pub const fn record(&self) -> Option<TargetRecord> {
        match self {
            Self::Empty => None,
            Self::Prepared { .. } => Some(TargetRecord::Prepared),
            Self::Starting { .. } | Self::Running => Some(TargetRecord::Running),
        }
    }

    /// The machine of a daemon that was killed with this record, and what it has to do first.
    #[must_use]
    pub fn restored(record: TargetRecord) -> (Self, Vec<TargetAction>) {
        match record {
            TargetRecord::Prepared => (Self::Empty, vec![TargetAction::Destroy]),
            // The word may have been given: the guest is started, if it does not run.
            TargetRecord::Running => (Self::Starting { told: true }, vec![TargetAction::Start]),
        }
    }

    fn drop_guest(&mut self) -> Vec<TargetAction> {
        *self = Self::Empty;
        vec![TargetAction::Destroy]
    }
}
