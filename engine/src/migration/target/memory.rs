//! How much of the guest's memory is here.

use super::same_files::Marking;

/// The target's memory, as the machine knows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// No guest was agreed on.
    Vacant,
    /// The guest fits, and whether its files are this side's own cannot be told yet.
    Marking(Marking),
    /// The guest fits. The memory is being cleared, since pages that the source does not send must
    /// read as zero.
    Clearing {
        /// The caller was asked to.
        asked: bool,
    },
    /// Pages come, round by round.
    Receiving,
    /// All pages are here, and the source was not told.
    Digesting {
        /// The caller was asked for the digest.
        asked: bool,
    },
    /// All pages are here.
    Complete,
}

impl Memory {
    /// Whether every page of the last round is here.
    pub(super) fn has_all_pages(&self) -> bool {
        matches!(self, Self::Digesting { .. } | Self::Complete)
    }

    /// Whether a guest was agreed on, and the memory was cleared for it.
    pub(super) fn is_cleared(&self) -> bool {
        !matches!(
            self,
            Self::Vacant | Self::Marking(_) | Self::Clearing { .. }
        )
    }
}
