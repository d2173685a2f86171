//! Errors about guests, as libvirt's QEMU driver has them.

use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_v3::domain::DomainError;

use crate::driver::qemu::{QemuError, Unsupported};
use crate::store::StoreError;

pub(crate) fn internal(detail: impl ToString) -> Error {
    Error::new(
        ErrorCode::InternalError,
        ErrorDomain::Qemu,
        detail.to_string(),
    )
}

pub(crate) fn no_guest(detail: impl Into<String>) -> Error {
    Error::new(ErrorCode::NoDomain, ErrorDomain::Qemu, detail)
}

pub(crate) fn not_running() -> Error {
    let detail = "domain is not running";
    Error::new(
        ErrorCode::OperationInvalid,
        ErrorDomain::DomainConfig,
        detail,
    )
}

/// It runs, or stands still: a daemon that came back has not got hold of its monitor yet.
pub(crate) fn unreached() -> Error {
    invalid(
        "the monitor of the domain's QEMU does not answer since this daemon has started: it is tried \
         again every second; another client may hold it (destroy ends the domain)",
    )
}

pub(crate) fn invalid(detail: impl Into<String>) -> Error {
    Error::new(ErrorCode::OperationInvalid, ErrorDomain::Qemu, detail)
}

/// As [`invalid`], of the part that keeps the list of guests.
pub(crate) fn invalid_here(detail: impl Into<String>) -> Error {
    Error::new(
        ErrorCode::OperationInvalid,
        ErrorDomain::DomainConfig,
        detail,
    )
}

/// There is another guest with that name or UUID.
pub(crate) fn taken(detail: impl Into<String>) -> Error {
    Error::new(
        ErrorCode::OperationFailed,
        ErrorDomain::DomainConfig,
        detail,
    )
}

pub(crate) fn of_description(error: &DomainError) -> Error {
    let code = ErrorCode::from_number(error.code());
    let domain = ErrorDomain::from_number(error.domain());
    let (DomainError::Syntax(detail) | DomainError::Xml(detail) | DomainError::Unsupported(detail)) =
        error
    else {
        return Error::new(code, domain, error.to_string());
    };
    Error::new(code, domain, detail)
}

pub(crate) fn unbuildable(error: Unsupported) -> Error {
    Error::new(ErrorCode::ConfigUnsupported, ErrorDomain::Qemu, error.0)
}

pub(crate) fn of_qemu(error: &QemuError) -> Error {
    internal(error)
}

pub(crate) fn of_store(error: &StoreError) -> Error {
    internal(format!("cannot keep the guest's state: {error}"))
}
