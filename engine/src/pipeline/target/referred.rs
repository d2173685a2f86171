//! Finds the pages that references name, and makes sure that they are what was sent.

use std::sync::Arc;

use super::kept::KeptPages;
use crate::codec::reference::Secret;
use crate::memory::{PageBuffer, ReadPages};
use crate::migration::MigrationError;
use crate::units::PageRange;
use crate::wire::{MAX_REFERENCE_PAGES, PageRun, Place, Reference};

/// What a channel of a target finds references with; allocated once.
pub(in crate::pipeline) struct Referred {
    secret: Secret,
    kept: Arc<KeptPages>,
    pages: PageBuffer,
}

impl Referred {
    /// References to `kept`, and to the guest's own pages.
    pub(in crate::pipeline) fn new(secret: Secret, kept: Arc<KeptPages>) -> Self {
        Self {
            secret,
            kept,
            pages: PageBuffer::new(MAX_REFERENCE_PAGES),
        }
    }

    /// The content of a run that was sent as a reference; `None` if it is not where the
    /// reference says.
    ///
    /// # Errors
    /// When the guest's memory cannot be read.
    pub(in crate::pipeline) fn find(
        &mut self,
        run: &PageRun<'_>,
        guest: &dyn ReadPages,
    ) -> Result<Option<&[u8]>, MigrationError> {
        let reference = Reference::decode(run.data)?;
        let pages = &mut self.pages[..run.range.len_bytes()];
        let is_there = match reference.place {
            Place::Guest(first) => {
                let place = PageRange {
                    first,
                    count: run.range.count,
                };
                let is_inside = guest.layout().contains(place);
                if is_inside {
                    // Another channel may write there meanwhile; the identity tells.
                    guest.read(place, pages)?;
                }
                is_inside
            }
            Place::Kept(first) => self.kept.read(first, pages),
        };
        Ok((is_there && self.secret.identity(pages) == reference.identity).then_some(pages))
    }
}
