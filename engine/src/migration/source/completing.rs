//! The end of the last round: all pages are sent, and the target has not said that they are there.

use crate::migration::error::MigrationError;
use crate::units::Instant;

/// What is known by now of both sides' memory.
#[derive(Debug)]
pub(super) struct Completing {
    /// When the last page was acknowledged.
    placed_at: Option<Instant>,
    digest: OwnDigest,
    /// The target said that all is complete, with its digest in verify mode.
    there: Option<Option<u128>>,
}

/// The digest of this side's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnDigest {
    /// Digests are not compared.
    NotWanted,
    Wanted,
    UnderWay,
    Known(u128),
}

impl Completing {
    /// Digests are compared if `verify`.
    pub(super) fn new(verify: bool) -> Self {
        Self {
            placed_at: None,
            digest: match verify {
                true => OwnDigest::Wanted,
                false => OwnDigest::NotWanted,
            },
            there: None,
        }
    }

    /// Everything that was handed out is acknowledged.
    pub(super) fn all_is_placed(&mut self, now: Instant) {
        self.placed_at = Some(now);
    }

    /// Whether the digest is to be computed now; so once. Not while the last pages are sent and
    /// placed: that would take the processors from them, and the target begins when it has them
    /// all.
    pub(super) fn begins_digest(&mut self) -> bool {
        let begins = self.digest == OwnDigest::Wanted && self.placed_at.is_some();
        if begins {
            self.digest = OwnDigest::UnderWay;
        }
        begins
    }

    /// The digest of this side's memory.
    pub(super) fn digested(&mut self, digest: u128) {
        self.digest = OwnDigest::Known(digest);
    }

    /// The target said that all is complete.
    pub(super) fn complete_there(&mut self, digest: Option<u128>) {
        self.there = Some(digest);
    }

    /// Until when pages were placed, if by `now` nothing is to come any more: what follows until
    /// now went into digests.
    ///
    /// # Errors
    /// When the digests differ.
    pub(super) fn placed_until(&self, now: Instant) -> Result<Option<Instant>, MigrationError> {
        let (Some(placed_at), Some(there)) = (self.placed_at, self.there) else {
            return Ok(None);
        };
        match (self.digest, there) {
            (OwnDigest::Known(here), Some(there)) if here != there => {
                Err(MigrationError::DigestMismatch { here, there })
            }
            (OwnDigest::Known(_), Some(_)) => Ok(Some(placed_at)),
            (_, Some(_)) => Ok(None),
            // Without digests, what comes after the last acknowledgement is the news of it.
            (_, None) => Ok(Some(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACED: Instant = Instant(10);
    const NOW: Instant = Instant(20);

    #[test]
    fn without_digests_the_targets_word_is_enough() {
        let mut completing = Completing::new(false);
        completing.all_is_placed(PLACED);
        assert!(!completing.begins_digest());
        assert_eq!(completing.placed_until(NOW).unwrap(), None);
        completing.complete_there(None);
        assert_eq!(completing.placed_until(NOW).unwrap(), Some(NOW));
    }

    #[test]
    fn both_digests_must_be_there_and_equal() {
        let mut completing = Completing::new(true);
        assert!(!completing.begins_digest(), "pages are on their way");
        completing.all_is_placed(PLACED);
        assert!(completing.begins_digest());
        assert!(!completing.begins_digest(), "once");
        completing.complete_there(Some(5));
        assert_eq!(completing.placed_until(NOW).unwrap(), None);
        completing.digested(5);
        assert_eq!(completing.placed_until(NOW).unwrap(), Some(PLACED));
        completing.digested(6);
        let differ = completing.placed_until(NOW);
        assert!(matches!(
            differ,
            Err(MigrationError::DigestMismatch { here: 6, there: 5 })
        ));
    }
}
