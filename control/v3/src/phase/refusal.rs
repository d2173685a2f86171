//! Calls that come at the wrong time, with libvirt's codes.

use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};

/// Why a call was refused. Nothing was changed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The guest is being moved already.
    AlreadyMoving,
    /// The guest is not being moved.
    NotMoving,
    /// Memory is being sent; the target may have all of it before that is known here.
    BeingSent,
    /// Perform has been called, and has succeeded.
    AlreadyPerformed,
    /// Confirm came before the guest was sent.
    NotPerformed,
    /// There is such a guest on the target, and it is active.
    AlreadyActive,
    /// The guest does not come in from anywhere.
    NotIncoming,
    /// Finish came before the guest's memory.
    NotArrived,
    /// The guest's processors are being started: it is not known yet whether it runs.
    Starting,
    /// There is no such guest.
    NoGuest,
    /// Only the source can end a migration.
    AbortOnTarget,
    /// The memory is on its way page by page; there is no way back.
    InPostcopy,
    /// No job is there to be ended.
    NoJob,
}

impl Refusal {
    /// The error for a client that spoke of the guest `name`.
    #[must_use]
    pub fn error(self, name: &str) -> Error {
        let not_now =
            |detail: String| Error::new(ErrorCode::OperationInvalid, ErrorDomain::Qemu, detail);
        match self {
            Self::AlreadyMoving => not_now(format!(
                "another migration job is already running for domain '{name}'"
            )),
            Self::NotMoving => not_now(format!("domain '{name}' is not being migrated")),
            Self::BeingSent => not_now(format!(
                "domain '{name}' is being sent, and its target may have all of it before that is known \
                 here: end the migration first (virDomainAbortJob, domjobabort)"
            )),
            Self::AlreadyPerformed => not_now(format!(
                "domain '{name}' has been sent already, and waits for Confirm"
            )),
            Self::NotPerformed => not_now(format!("domain '{name}' has not been sent")),
            Self::AlreadyActive => Error::new(
                ErrorCode::OperationInvalid,
                ErrorDomain::DomainConfig,
                format!("domain '{name}' is already active"),
            ),
            Self::NotIncoming => not_now(format!(
                "domain '{name}' is not processing incoming migration"
            )),
            Self::NotArrived => not_now(format!(
                "domain '{name}' has not arrived: nothing was sent yet"
            )),
            Self::Starting => Error::new(
                ErrorCode::OperationTimeout,
                ErrorDomain::Qemu,
                format!("domain '{name}' is being started"),
            ),
            Self::NoGuest => Error::new(
                ErrorCode::NoDomain,
                ErrorDomain::Qemu,
                format!("no domain with matching name '{name}'"),
            ),
            Self::AbortOnTarget => {
                not_now("cannot abort incoming migration; use virDomainDestroy instead".into())
            }
            Self::InPostcopy => not_now("cannot abort migration in post-copy mode".into()),
            Self::NoJob => not_now("no job is active on the domain".into()),
        }
    }
}
