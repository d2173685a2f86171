//! Why a migration ended without completing, and where the guest is now.

use rustix::io::Errno;

use crate::converge::GivenUp;
use crate::dirty::DirtyError;
use crate::memory::MemoryError;
use crate::wire::{AbortCode, FrameError, WireError};

/// On which side the guest is after a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestLocation {
    /// It runs, or may be resumed, where it was.
    Source,
    /// It runs where it was sent.
    Target,
    /// The sides lost each other during the hand-over, and asking did not settle it.
    Unknown,
}

impl GuestLocation {
    /// The word used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a migration did not complete.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// The connection could not be made, or was lost.
    #[error("{what}: {source}")]
    Link {
        /// What was being done.
        what: &'static str,
        /// What the connection said.
        source: std::io::Error,
    },
    /// Nothing was heard from the other side for too long.
    #[error("nothing was heard from the other side for {seconds} s; is it still there?")]
    PeerSilent {
        /// How long, in seconds.
        seconds: u64,
    },
    /// The other side sent bytes that are no valid frame or message.
    #[error("the other side sent something malformed: {0}")]
    Malformed(#[from] WireError),
    /// The stream of frames is broken.
    #[error(transparent)]
    Frame(FrameError),
    /// The other side broke the rules of the protocol.
    #[error("the other side broke the protocol: {0}")]
    PeerMisbehaved(String),
    /// The target cannot take this guest.
    #[error("the target refuses this guest:{}", each_on_a_line(reasons))]
    Refused {
        /// All its reasons.
        reasons: Vec<String>,
    },
    /// The other side ended the migration.
    #[error("the other side ended the migration: {reason}")]
    PeerAborted {
        /// The kind of reason.
        code: AbortCode,
        /// In its words.
        reason: String,
    },
    /// The guest, or its hypervisor, did not do what was asked.
    #[error("the guest: {0}")]
    Guest(String),
    /// The guest's process has ended on the source: the guest does not run anywhere.
    #[error("{0}, and the guest with it")]
    GuestEnded(String),
    /// Something happened to the guest for which it was to stay.
    #[error("the migration was ended, and the guest stays, because {0}")]
    GuestStays(String),
    /// Guest memory could not be read or written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Writes cannot be tracked.
    #[error("dirty tracking: {0}")]
    Dirty(#[source] DirtyError),
    /// The policy saw no way to complete it within its limits.
    #[error(transparent)]
    NotConverging(Box<GivenUp>),
    /// The guest stood still for as long as it may, and was not handed over.
    #[error(
        "the guest stood still for {} ms, the downtime limit, in the phase {phase}; allow more by \
         --downtime-limit, or look at what was slow",
        limit.as_millis()
    )]
    DowntimeLimit {
        /// The limit.
        limit: std::time::Duration,
        /// The phase in which it was reached: [`Phase::name`](super::Phase::name).
        phase: &'static str,
    },
    /// Somebody asked for the end.
    #[error("cancelled")]
    Cancelled,
    /// The memories differ at switchover.
    #[error(
        "the digests of the memories differ (source {here:032x}, target {there:032x}): a write \
         was missed or damaged; the guest was not handed over"
    )]
    DigestMismatch {
        /// Digest of the source's memory.
        here: u128,
        /// Digest of the target's.
        there: u128,
    },
    /// The connection was lost after the source relinquished the guest, and could not be restored.
    #[error("the connection was lost while the guest was handed over ({0})")]
    InDoubt(String),
    /// Whether the journal has it that the guest is handed over is not known. The target was not told.
    #[error(
        "whether the hand-over was recorded is not known ({0}): the guest is stopped, and the target \
         was not told to run it"
    )]
    PromiseUnknown(String),
}

/// The reasons of a refusal, for the end of a sentence.
fn each_on_a_line(reasons: &[String]) -> String {
    let lines = reasons.iter().map(|reason| format!("\n  - {reason}"));
    lines.collect()
}

/// The other side did what the protocol forbids: `what`, as the end of "broke the protocol: ".
pub(super) fn misbehaved(what: &str) -> MigrationError {
    MigrationError::PeerMisbehaved(what.to_owned())
}

impl MigrationError {
    /// A stable name for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Link { .. } => "link",
            Self::PeerSilent { .. } => "peer-silent",
            Self::Malformed(_) | Self::Frame(_) => "malformed",
            Self::PeerMisbehaved(_) => "peer-misbehaved",
            Self::Refused { .. } => "refused",
            Self::PeerAborted { .. } => "peer-aborted",
            Self::Guest(_) => "guest",
            Self::GuestEnded(_) => "guest-ended",
            Self::GuestStays(_) => "guest-stays",
            Self::Memory(_) => "memory",
            Self::Dirty(_) => "dirty-tracking",
            Self::NotConverging(_) => "not-converging",
            Self::DowntimeLimit { .. } => "downtime-limit",
            Self::Cancelled => "cancelled",
            Self::DigestMismatch { .. } => "digest-mismatch",
            Self::InDoubt(_) | Self::PromiseUnknown(_) => "in-doubt",
        }
    }

    /// Whether the same call may succeed later, with nothing changed but the moment.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Link { .. }
            | Self::PeerSilent { .. }
            | Self::Frame(_)
            | Self::GuestStays(_)
            | Self::NotConverging(_)
            | Self::DowntimeLimit { .. }
            | Self::Cancelled => true,
            Self::PeerAborted { code, .. } => {
                !matches!(code, AbortCode::Protocol | AbortCode::GuestEnded)
            }
            _ => false,
        }
    }

    /// Whether the connection is what failed: it is lost, silent, or carries damaged bytes. The
    /// other side may be well, and can be asked over another one.
    pub fn breaks_connection(&self) -> bool {
        matches!(
            self,
            Self::Link { .. } | Self::PeerSilent { .. } | Self::Malformed(_) | Self::Frame(_)
        )
    }

    /// Whether the guest ended on the source, so that it does not run anywhere.
    pub fn ended_guest(&self) -> bool {
        matches!(
            self,
            Self::GuestEnded(_)
                | Self::PeerAborted {
                    code: AbortCode::GuestEnded,
                    ..
                }
        )
    }

    /// What the other side is told when this side ends the migration.
    pub fn abort_code(&self) -> AbortCode {
        match self {
            Self::Cancelled => AbortCode::Cancelled,
            Self::GuestEnded(_) => AbortCode::GuestEnded,
            Self::Guest(_) | Self::GuestStays(_) | Self::Memory(_) | Self::Dirty(_) => {
                AbortCode::Guest
            }
            Self::Malformed(_) | Self::Frame(_) | Self::PeerMisbehaved(_) => AbortCode::Protocol,
            Self::DigestMismatch { .. } => AbortCode::Digest,
            Self::NotConverging(_) => AbortCode::NotConverging,
            _ => AbortCode::Other,
        }
    }
}

impl From<DirtyError> for MigrationError {
    /// A kernel that knows no such process has said that the guest's has ended.
    fn from(error: DirtyError) -> Self {
        match error {
            DirtyError::Kernel { source, .. }
                if Errno::from_io_error(&source) == Some(Errno::SRCH) =>
            {
                Self::GuestEnded("the process whose memory is tracked has ended".into())
            }
            error => Self::Dirty(error),
        }
    }
}

impl From<FrameError> for MigrationError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(source) => Self::Link {
                what: "the connection was lost",
                source,
            },
            FrameError::Closed => Self::Link {
                what: "the connection was lost",
                source: std::io::Error::other("closed by the other side"),
            },
            other => Self::Frame(other),
        }
    }
}

/// A migration that did not complete, and where the guest is.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// Why.
    pub error: MigrationError,
    /// Where the guest is now.
    pub guest: GuestLocation,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which the kernel says a little before it says that the process has ended.
    #[test]
    fn a_process_that_cannot_be_tracked_any_more_has_ended() {
        let of = |errno: Errno| {
            MigrationError::from(DirtyError::Kernel {
                call: "PAGEMAP_SCAN",
                source: errno.into(),
            })
        };
        assert!(of(Errno::SRCH).ended_guest());
        assert!(!of(Errno::NOMEM).ended_guest());
    }
}
