//! Finds the pages that references name, and makes sure that they are what was sent.

use std::sync::Arc;

use super::base_pages::BasePages;
use crate::codec::dedup::Secret;
use crate::memory::{PageBuffer, ReadPages};
use crate::migration::MigrationError;
use crate::units::PageRange;
use crate::wire::{MAX_REFERENCE_PAGES, PageRun, Place, Reference};

/// What a channel of a target finds references with; allocated once.
pub(in crate::pipeline) struct DedupReader {
    secret: Secret,
    base_pages: Arc<BasePages>,
    pages: PageBuffer,
}

impl DedupReader {
    /// References to `base_pages`, and to the guest's own pages.
    pub(in crate::pipeline) fn new(secret: Secret, base_pages: Arc<BasePages>) -> Self {
        Self {
            secret,
            base_pages,
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
            // As older sources send them.
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
            Place::Base(first) => self.base_pages.read(first, pages),
        };
        Ok((is_there && self.secret.identity(pages) == reference.identity).then_some(pages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{FileMemory, Layout, Region, RegionFile};
    use crate::units::{ByteCount, PAGE_BYTES, PageCount, PageIndex};
    use crate::wire::{PagesBody, PagesBuilder};
    use std::os::unix::fs::FileExt;

    #[test]
    fn older_sources_refer_to_the_guests_own_pages() {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..4 * PAGE_BYTES).map(|at| (at / 100) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        let region = Region {
            name: "ram".into(),
            pages: PageCount(4),
            backing_page: ByteCount(PAGE_BYTES as u64),
        };
        let layout = Layout::new(vec![region]).unwrap();
        let guest = FileMemory::new(layout, vec![RegionFile { file, offset: 0 }]).unwrap();
        let secret = Secret::new(1, 2);
        let base_pages = Arc::new(BasePages::new(None, 2));
        let mut reader = DedupReader::new(secret.clone(), base_pages);
        let two = &content[PAGE_BYTES..3 * PAGE_BYTES];
        let identity = secret.identity(two);
        let mut found = |place, identity| {
            let mut builder = PagesBuilder::default();
            builder.begin(1);
            builder.add_reference(PageRange::new(0, 2), &Reference { place, identity });
            let (head, own) = builder.finish();
            let body = [head, own].concat();
            let body = PagesBody::decode(&body).unwrap();
            let run = body.runs().next().unwrap();
            reader.find(&run, &guest).unwrap().map(<[u8]>::to_vec)
        };
        let guest_page = |page| Place::Guest(PageIndex(page));
        assert_eq!(found(guest_page(1), identity).as_deref(), Some(two));
        assert_eq!(found(guest_page(2), identity), None, "another content");
        assert_eq!(found(guest_page(1), identity ^ 1), None);
        assert_eq!(found(guest_page(3), identity), None, "beyond the guest");
        assert_eq!(
            found(Place::Base(1), identity),
            None,
            "nothing is base_pages"
        );
    }
}
