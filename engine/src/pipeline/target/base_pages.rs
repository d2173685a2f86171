//! Pages that a target has beside the guest's memory: the file of an earlier visit, an image.
//!
//! They are only read, by pread(2): a file that shrinks or fails meanwhile is a page that is
//! missing, and never a signal.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fingerprints::{self, FingerprintWorker};
use crate::memory::{FileMemory, Layout, MemoryError, PageBitmap, ReadPages, Region, RegionFile};
use crate::units::{ByteCount, PAGE_BYTES, PageCount, PageRange};
use crate::wire::DedupTerms;

/// Pages that are kept, numbered through all files. The target's random number is made with
/// them, so that their fingerprints can be taken before a source comes.
pub struct BasePages {
    memory: Option<Arc<dyn ReadPages>>,
    nonce: u128,
}

impl std::fmt::Debug for BasePages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BasePages")
            .field("pages", &self.pages())
            .finish_non_exhaustive()
    }
}

impl BasePages {
    /// Pages of `memory`; `nonce` is random, and for one migration. Without a memory there are
    /// none, and references can only be to the guest's own pages.
    pub fn new(memory: Option<Arc<dyn ReadPages>>, nonce: u128) -> Self {
        Self { memory, nonce }
    }

    /// The whole pages of these files, in this order; the rest of a last page is left out.
    /// `nonce` is as for [`new`](Self::new).
    ///
    /// # Errors
    /// When one cannot be read, or has no page.
    pub fn open(paths: &[PathBuf], nonce: u128) -> Result<Self, MemoryError> {
        if paths.is_empty() {
            return Ok(Self::new(None, nonce));
        }
        let mut regions = Vec::with_capacity(paths.len());
        let mut files = Vec::with_capacity(paths.len());
        for (number, path) in paths.iter().enumerate() {
            let (file, pages) = open(path).map_err(|source| unusable(path, source))?;
            regions.push(Region {
                // The same file may be named twice, which is of no use and does no harm.
                name: format!("file {number}"),
                pages,
                backing_page: ByteCount(PAGE_BYTES as u64),
            });
            files.push(RegionFile { file, offset: 0 });
        }
        let layout =
            Layout::new(regions).map_err(|error| unusable(&paths[0], io::Error::other(error)))?;
        let memory = FileMemory::new(layout, files)?;
        Ok(Self::new(Some(Arc::new(memory)), nonce))
    }

    /// How many there are.
    pub fn pages(&self) -> PageCount {
        let memory = self.memory.as_ref();
        memory.map_or(PageCount(0), |memory| memory.layout().pages())
    }

    /// The target's random number.
    pub fn nonce(&self) -> u128 {
        self.nonce
    }

    /// On which terms references to them, and to the guest's own pages, are taken.
    pub fn terms(&self) -> DedupTerms {
        DedupTerms {
            nonce: self.nonce,
            base_pages: self.pages().0.min(fingerprints::MOST_PAGES),
        }
    }

    /// Memory that their fingerprints take until the source has them.
    pub fn footprint(&self) -> ByteCount {
        FingerprintWorker::footprint(self.pages().0)
    }

    /// Reads the pages from `first` on; whether they are there.
    pub(super) fn read(&self, first: u64, out: &mut [u8]) -> bool {
        let range = PageRange::new(first, (out.len() / PAGE_BYTES) as u64);
        let memory = self.memory.as_ref();
        memory.is_some_and(|memory| memory.read(range, out).is_ok())
    }

    /// The pages that may hold anything but zeros; all, where nobody can tell.
    pub(super) fn populated(&self) -> PageBitmap {
        let pages = self.pages();
        let mut populated = PageBitmap::new(pages);
        let memory = self.memory.as_ref();
        if memory.is_some_and(|memory| memory.populated(&mut populated).is_err()) {
            populated.insert(PageRange::new(0, pages.0));
        }
        populated
    }
}

/// The file, and how many whole pages it has.
fn open(path: &Path) -> io::Result<(File, PageCount)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let pages = metadata.len() / PAGE_BYTES as u64;
    if pages == 0 {
        return Err(io::Error::other(format!(
            "it has {} bytes, and a page has {PAGE_BYTES}; name the file of a guest's memory, or \
             an image",
            metadata.len()
        )));
    }
    // What cannot be read is to be found out now and not when the guest comes.
    file.read_exact_at(&mut [0], 0)?;
    Ok((file, PageCount(pages)))
}

fn unusable(path: &Path, source: io::Error) -> MemoryError {
    MemoryError::Io {
        action: "read",
        region: path.display().to_string(),
        offset: 0,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(dir: &tempfile::TempDir, name: &str, content: &[u8]) -> PathBuf {
        let path = dir.path().join(name);
        File::create(&path).unwrap().write_all(content).unwrap();
        path
    }

    #[test]
    fn pages_are_numbered_through_the_files_and_a_part_of_a_page_is_left_out() {
        let none = BasePages::open(&[], 5).unwrap();
        assert_eq!(none.pages(), PageCount(0));
        assert!(!none.read(0, &mut [0; PAGE_BYTES]));
        let dir = tempfile::tempdir().unwrap();
        let one = file(&dir, "one", &[1; 2 * PAGE_BYTES + 100]);
        let two = file(&dir, "two", &[2; PAGE_BYTES]);
        let base_pages = BasePages::open(&[one, two], 5).unwrap();
        assert_eq!((base_pages.pages(), base_pages.nonce()), (PageCount(3), 5));
        let mut pages = vec![0; 2 * PAGE_BYTES];
        assert!(base_pages.read(1, &mut pages));
        assert_eq!((pages[0], pages[PAGE_BYTES]), (1, 2));
        assert!(!base_pages.read(2, &mut pages), "beyond the end");
        assert!(!base_pages.read(u64::MAX, &mut pages));
        assert_eq!(base_pages.populated().count(), PageCount(3));
    }

    #[test]
    fn a_file_that_shrinks_is_a_page_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(&dir, "one", &[1; 2 * PAGE_BYTES]);
        let base_pages = BasePages::open(std::slice::from_ref(&path), 5).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(PAGE_BYTES as u64)
            .unwrap();
        let mut page = [0; PAGE_BYTES];
        assert!(base_pages.read(0, &mut page));
        assert!(!base_pages.read(1, &mut page));
    }

    #[test]
    fn what_cannot_be_used_is_named_before_anything_starts() {
        let dir = tempfile::tempdir().unwrap();
        let short = file(&dir, "short", &[1; 100]);
        let error = BasePages::open(&[short], 0).unwrap_err().to_string();
        assert!(
            error.contains("short at byte 0: it has 100 bytes"),
            "{error}"
        );
        let error = BasePages::open(&[dir.path().join("none")], 0).unwrap_err();
        assert!(
            error.to_string().contains("none at byte 0: No such file"),
            "{error}"
        );
        let error = BasePages::open(&[dir.path().to_owned()], 0).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
}
