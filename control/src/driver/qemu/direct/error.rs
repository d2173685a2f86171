//! Errors of making a QEMU ready for direct mode.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use pagelift_engine::dirty::DirtyError;
use pagelift_engine::memory::{LayoutError, MemoryError};
use pagelift_engine::ram::RamError;

use super::watch::{END_IS_SEEN, ProcessWatch};
use crate::agent_client::AgentError;
use crate::driver::qemu::QemuMigrationError;
use crate::driver::{DriverError, Refusal};
use crate::qmp::{Address, QmpError};
use crate::throttle::ThrottleError;

/// What failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DirectError {
    /// There is no way to see what the guest writes, nor to bring it back.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// QEMU has ended meanwhile, and the guest with it.
    #[error("its QEMU has ended")]
    Ended(
        /// What failed by that.
        #[source]
        Box<Self>,
    ),
    /// The kernel cannot track the guest.
    #[error("dirty tracking: {0}")]
    Dirty(#[from] DirtyError),
    /// The process went away.
    #[error("QEMU: {0}")]
    Gone(io::Error),
    /// Its RAM blocks make no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A file of its RAM cannot be used.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The monitor is no unix socket.
    #[error(
        "the monitor {0} is not a unix socket; descriptors must be passed over it: give QEMU \
         -qmp unix:PATH,server=on,wait=off and name that path"
    )]
    NotUnix(Address),
    /// The agent is of an older release.
    #[error(
        "the agent in QEMU process {0} is of an older release and keeps no journal: start that QEMU \
         anew with this release's pagelift run"
    )]
    OldAgent(u32),
    /// A descriptor cannot be copied.
    #[error("cannot open the guest's RAM: {0}")]
    Open(io::Error),
    /// QEMU did not do what was asked.
    #[error(transparent)]
    Qemu(#[from] QemuMigrationError),
    /// Its RAM cannot be used, or not be tracked.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// It is no guest, or no target, for direct mode.
    #[error("{what}")]
    Refused {
        what: &'static str,
        refusals: Vec<Refusal>,
    },
    /// It cannot be throttled in the way asked for.
    #[error(transparent)]
    Throttle(#[from] ThrottleError),
}

impl DirectError {
    /// The same, or, if the process behind `watch` has ended, that.
    pub(super) fn or_ended(self, watch: &ProcessWatch) -> Self {
        if matches!(self, Self::Refused { .. }) || !watch.ends_within(END_IS_SEEN) {
            return self;
        }
        Self::Ended(Box::new(self))
    }

    /// The same, or, if a monitor at `path` broke off and nobody listens there any more, that. One that
    /// has answered, even by a refusal, was alive.
    pub(super) fn or_gone(self, path: &Path) -> Self {
        let broke_off = matches!(
            self,
            Self::Gone(_)
                | Self::Qemu(QemuMigrationError::Qmp(
                    QmpError::Lost { .. } | QmpError::Process { .. }
                ))
        );
        let refused = UnixStream::connect(path).err().map(|error| error.kind());
        match refused {
            Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) if broke_off => {
                Self::Ended(Box::new(self))
            }
            _ => self,
        }
    }
}

impl From<QmpError> for DirectError {
    fn from(error: QmpError) -> Self {
        Self::Qemu(error.into())
    }
}

impl From<DirectError> for DriverError {
    fn from(error: DirectError) -> Self {
        match error {
            DirectError::Refused { what, refusals } => Self::Refused { what, refusals },
            error @ DirectError::Ended(_) => Self::Ended(Box::new(error)),
            error => Self::Failed(Box::new(error)),
        }
    }
}
