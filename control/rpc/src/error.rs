//! Errors as clients get them: a code, a domain, a message and what the message was made of.
//!
//! Programs decide by code and domain; `virsh` prints the message alone. The message is a format of
//! the code's with a detail in it, and both go along as `str1` and `str2`.

use std::fmt;

use crate::declare::numbers;
use crate::types::{Domain, Network};
use crate::xdr::{Input, Malformed, Xdr};

/// The longest detail of an error that is made here, in bytes.
///
/// A detail may quote what a client sent, and goes twice: what is longer would make an error that does
/// not fit into a reply.
pub const MAX_DETAIL_BYTES: usize = 64 << 10;

numbers! {
    /// What went wrong.
    ErrorCode {
        /// None of the others.
        InternalError = 1,
        /// The driver or the daemon does not have the function.
        NoSupport = 3,
        /// No driver takes the URI.
        NoConnect = 5,
        /// There is no such connection.
        InvalidConnection = 6,
        /// There is no such domain object.
        InvalidDomain = 7,
        /// An argument is wrong.
        InvalidArgument = 8,
        /// The hypervisor did not do it.
        OperationFailed = 9,
        /// XML does not describe what it should.
        XmlError = 27,
        /// There is such a domain already.
        DomainExists = 28,
        /// A connection that may only read was to write.
        OperationDenied = 29,
        /// XML cannot be parsed; the message has line and column.
        XmlDetail = 35,
        /// The system refused.
        SystemError = 38,
        /// A message is wrong.
        Rpc = 39,
        /// There is no such domain.
        NoDomain = 42,
        /// The client is not who it must be.
        AuthFailed = 45,
        /// Not in this state.
        OperationInvalid = 55,
        /// What is asked for cannot be had here.
        ConfigUnsupported = 67,
        /// Something else has held the domain for too long.
        OperationTimeout = 68,
        /// The guest moved, and could not be defined there.
        MigratePersistFailed = 69,
        /// A parameter or flag is not known, or not together with others.
        ArgumentUnsupported = 74,
        /// Somebody aborted it.
        OperationAborted = 78,
        /// It would not be safe.
        MigrateUnsafe = 81,
        /// A number is too large.
        Overflow = 82,
        /// Not for this domain, or on this side.
        OperationUnsupported = 84,
        /// Something else uses it.
        ResourceBusy = 87,
        /// The client may not.
        AccessDenied = 88,
        /// Finish was called for a migration that was cancelled: all is well.
        MigrateFinishOk = 93,
    }
}

impl ErrorCode {
    /// The format of its messages; `%1$s` or `%s` is where the detail is.
    pub const fn format(self) -> &'static str {
        match self {
            Self::InternalError => "internal error: %1$s",
            Self::NoSupport => "this function is not supported by the connection driver: %1$s",
            Self::NoConnect => "no connection driver available for %1$s",
            Self::InvalidConnection => "invalid connection pointer in %1$s",
            Self::InvalidDomain => "invalid domain pointer in %1$s",
            Self::InvalidArgument => "invalid argument: %1$s",
            Self::OperationFailed => "operation failed: %1$s",
            Self::XmlError => "XML error: %1$s",
            Self::DomainExists => "domain '%1$s' already exists",
            Self::OperationDenied => "operation forbidden: %1$s",
            Self::NoDomain => "Domain not found: %1$s",
            Self::AuthFailed => "authentication failed: %1$s",
            Self::OperationInvalid => "Requested operation is not valid: %1$s",
            Self::ConfigUnsupported => "unsupported configuration: %1$s",
            Self::OperationTimeout => "Timed out during operation: %1$s",
            Self::MigratePersistFailed => "Failed to make domain persistent after migration: %1$s",
            Self::ArgumentUnsupported => "argument unsupported: %1$s",
            Self::OperationAborted => "operation aborted: %1$s",
            Self::MigrateUnsafe => "Unsafe migration: %1$s",
            Self::Overflow => "numerical overflow: %1$s",
            Self::OperationUnsupported => "Operation not supported: %1$s",
            Self::ResourceBusy => "resource busy: %1$s",
            Self::AccessDenied => "access denied: %1$s",
            Self::MigrateFinishOk => "migration successfully aborted",
            Self::XmlDetail | Self::SystemError | Self::Rpc | Self::Other(_) => "%s",
        }
    }
}

numbers! {
    /// The part of the system in which it went wrong.
    ErrorDomain {
        /// No part in particular.
        None = 0,
        /// XML.
        Xml = 5,
        /// The handling of domains.
        Dom = 6,
        /// The protocol.
        Rpc = 7,
        /// Configuration files.
        Config = 9,
        /// The QEMU driver.
        Qemu = 10,
        /// The client of another daemon.
        Remote = 13,
        /// Storage.
        Storage = 18,
        /// Domain descriptions.
        DomainConfig = 20,
        /// CPU models.
        Cpu = 31,
        /// URIs.
        Uri = 45,
        /// The vz driver.
        Vz = 48,
    }
}

/// An error, with everything that is on the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// What went wrong.
    pub code: ErrorCode,
    /// Where.
    pub domain: ErrorDomain,
    /// The whole sentence.
    pub message: Option<String>,
    /// How bad: 2 is an error, 1 a warning.
    pub level: i32,
    /// The guest that it is about; libvirt sends none.
    pub guest: Option<Box<Domain>>,
    /// What the message was made of.
    pub strings: Box<[Option<String>; 3]>,
    /// Numbers that go with it; -1 for none.
    pub numbers: [i32; 2],
    /// The network that it is about; libvirt sends none.
    pub network: Option<Box<Network>>,
}

impl Error {
    /// The format of `code` with `detail` in it.
    ///
    /// A code whose format has no place for a detail (93) has none. What is longer than
    /// [`MAX_DETAIL_BYTES`] is cut.
    pub fn new(code: ErrorCode, domain: ErrorDomain, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        let mut ends = (0..=MAX_DETAIL_BYTES.min(detail.len())).rev();
        let end = ends.find(|end| detail.is_char_boundary(*end));
        detail.truncate(end.unwrap_or_default());
        let format = code.format();
        let place = ["%1$s", "%s"]
            .into_iter()
            .find(|place| format.contains(place));
        let message = match place {
            Some(place) => format.replacen(place, &detail, 1),
            None => format.to_owned(),
        };
        Self {
            code,
            domain,
            message: Some(message),
            level: 2,
            guest: None,
            strings: Box::new([Some(format.to_owned()), place.map(|_| detail), None]),
            numbers: [-1, -1],
            network: None,
        }
    }

    /// `function` does not know the flags `bits`.
    pub fn unsupported_flags(domain: ErrorDomain, function: &str, bits: u64) -> Self {
        let message = format!("unsupported flags (0x{bits:x}) in function {function}");
        Self {
            message: Some(message),
            strings: Box::new([Some(function.to_owned()), Some("flags".to_owned()), None]),
            numbers: [0, 0],
            ..Self::new(ErrorCode::InvalidArgument, domain, "")
        }
    }

    /// The whole sentence; empty when the peer sent none.
    pub fn message(&self) -> &str {
        self.message.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}

impl Xdr for Error {
    fn put(&self, out: &mut Vec<u8>) {
        self.code.put(out);
        self.domain.put(out);
        self.message.put(out);
        self.level.put(out);
        self.guest.put(out);
        self.strings.iter().for_each(|string| string.put(out));
        self.numbers.iter().for_each(|number| number.put(out));
        self.network.put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            code: Xdr::take(input)?,
            domain: Xdr::take(input)?,
            message: Xdr::take(input)?,
            level: Xdr::take(input)?,
            guest: Xdr::take(input)?,
            strings: Box::new([Xdr::take(input)?, Xdr::take(input)?, Xdr::take(input)?]),
            numbers: [Xdr::take(input)?, Xdr::take(input)?],
            network: Xdr::take(input)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_format_with_the_detail() {
        let error = Error::new(ErrorCode::InternalError, ErrorDomain::Qemu, "it broke");
        assert_eq!(error.to_string(), "internal error: it broke");
        let strings = ["internal error: %1$s", "it broke"].map(|text| Some(text.to_owned()));
        assert_eq!(error.strings[..2], strings);
        assert_eq!(error.numbers, [-1, -1]);

        let rpc = Error::new(ErrorCode::Rpc, ErrorDomain::Rpc, "unknown procedure: 0");
        assert_eq!(rpc.message(), "unknown procedure: 0");
        assert_eq!(rpc.strings[0].as_deref(), Some("%s"));

        let finish = Error::new(ErrorCode::MigrateFinishOk, ErrorDomain::Qemu, "");
        assert_eq!(finish.message(), "migration successfully aborted");
        assert_eq!(finish.strings[1], None);
    }

    #[test]
    fn flags_are_named() {
        let function = "qemuDomainMigratePrepare3Params";
        let error = Error::unsupported_flags(ErrorDomain::Qemu, function, 0x20_0000);
        let message = format!("unsupported flags (0x200000) in function {function}");
        assert_eq!(error.message(), message);
        assert_eq!(error.numbers, [0, 0]);
    }

    #[test]
    fn a_long_detail_is_cut() {
        let name = "\u{e9}".repeat(MAX_DETAIL_BYTES);
        let error = Error::new(ErrorCode::NoDomain, ErrorDomain::Qemu, name);
        assert!(error.message().len() <= MAX_DETAIL_BYTES + 40);
    }

    #[test]
    fn an_unknown_number_is_kept() {
        assert_eq!(ErrorCode::from_number(1234).number(), 1234);
        assert_eq!(ErrorCode::from_number(55), ErrorCode::OperationInvalid);
    }
}
