//! Refusals: the reason, and the way out. Both name things by the names they have in QEMU.

use std::fmt;

use pagelift_engine::plain_text;

/// A reason why a guest cannot be moved, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is in the way, naming the thing.
    pub reason: String,
    /// The way out.
    pub remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.remedy)
    }
}

impl Refusal {
    /// `reason` stands in the way; `remedy` is the way out.
    pub fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            reason: plain_text::line(&reason.into()),
            remedy: plain_text::line(&remedy.into()),
        }
    }
}
