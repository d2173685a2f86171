//! Why a description was refused, with the numbers that libvirt's clients know.

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

/// libvirt's error domain for descriptions of guests.
const FROM_DOMAIN: i32 = 20;

impl DomainError {
    /// libvirt's code: 35 for what is no XML, 27 for the impossible, 67 for the unsupported.
    #[must_use]
    pub const fn code(&self) -> i32 {
        match self {
            Self::Syntax(_) => 35,
            Self::Xml(_) => 27,
            Self::Unsupported(_) => 67,
        }
    }

    /// libvirt's error domain: that of descriptions.
    #[must_use]
    pub const fn domain(&self) -> i32 {
        FROM_DOMAIN
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
