//! Why a description was refused; clients get it with libvirt's numbers.

use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};

use crate::xml::{Malformed, Syntax};

/// Why a description of a guest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// The text is no XML: the place, the reason, the line and a mark below its column.
    #[error("{0}")]
    Syntax(String),
    /// The text is XML, and says something impossible.
    #[error("XML error: {0}")]
    Xml(String),
    /// The text says something that is not supported here.
    #[error("unsupported configuration: {0}")]
    Unsupported(String),
}

impl DomainError {
    /// The code that clients know.
    #[must_use]
    pub const fn code(&self) -> i32 {
        match self {
            Self::Syntax(_) => ErrorCode::XmlDetail.number(),
            Self::Xml(_) => ErrorCode::XmlError.number(),
            Self::Unsupported(_) => ErrorCode::ConfigUnsupported.number(),
        }
    }

    /// The part of the system that clients know.
    #[must_use]
    pub const fn domain(&self) -> i32 {
        ErrorDomain::DomainConfig.number()
    }
}

impl From<DomainError> for Error {
    fn from(error: DomainError) -> Self {
        let code = ErrorCode::from_number(error.code());
        let (DomainError::Syntax(detail)
        | DomainError::Xml(detail)
        | DomainError::Unsupported(detail)) = error;
        Self::new(code, ErrorDomain::DomainConfig, detail)
    }
}

impl From<Syntax> for DomainError {
    fn from(syntax: Syntax) -> Self {
        Self::Syntax(syntax.message())
    }
}

impl From<Malformed> for DomainError {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Unknown(path) => Self::Unsupported(format!("{path} is not supported")),
            Malformed::Missing(path) => Self::Xml(format!("{path} is missing")),
            Malformed::Invalid(path, value) => {
                Self::Xml(format!("invalid value '{value}' in {path}"))
            }
            Malformed::Twice(path) => Self::Xml(format!("{path} occurs multiple times")),
        }
    }
}
