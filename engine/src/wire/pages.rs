//! The body of a frame of pages: a list of runs, then their data.
//!
//! ```text
//!  0  u32  round
//!  4  u16  number of runs, 0..=256
//!  6  u16  0
//!  8  runs, 20 bytes each:
//!       0  u64  first page
//!       8  u32  number of pages, >= 1
//!      12  u32  bytes of data
//!      16  u16  encoding
//!      18  u16  0
//!     data of the runs, in their order
//! ```

use super::WireError;
use super::bytes::Cursor;
use super::reference::{MAX_REFERENCE_PAGES, REFERENCE_BYTES};
use crate::units::{PAGE_BYTES, PageCount, PageIndex, PageRange};

/// Most pages in one frame.
pub const MAX_FRAME_PAGES: usize = 256;

/// Bytes that describe one run.
pub const RUN_BYTES: usize = 20;

/// How the pages of a run are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Encoding {
    /// The pages hold only zeros; there is no data.
    Zero = 0,
    /// The data is the pages' content.
    Raw = 1,
    /// The data is what changed against the page's last content, in XBZRLE; one page.
    Delta = 2,
    /// The data is a [`Reference`](super::Reference): the target has the content of the pages.
    Reference = 7,
}

impl Encoding {
    fn from_wire(value: u16) -> Result<Self, WireError> {
        match value {
            0 => Ok(Self::Zero),
            1 => Ok(Self::Raw),
            2 => Ok(Self::Delta),
            7 => Ok(Self::Reference),
            _ => Err(WireError::BadValue {
                what: "page encoding",
                value: value.into(),
            }),
        }
    }

    /// Whether `bytes` can be the data of `pages` pages in this encoding.
    fn fits(self, pages: u64, bytes: u64) -> bool {
        match self {
            Self::Zero => bytes == 0,
            Self::Raw => bytes == pages * PAGE_BYTES as u64,
            Self::Delta => pages == 1 && (1..=PAGE_BYTES as u64).contains(&bytes),
            Self::Reference => {
                pages <= MAX_REFERENCE_PAGES as u64 && bytes == REFERENCE_BYTES as u64
            }
        }
    }
}

/// Pages that are carried together, with their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun<'a> {
    /// The pages.
    pub range: PageRange,
    /// How they are carried.
    pub encoding: Encoding,
    /// Their data in that encoding.
    pub data: &'a [u8],
}

/// A checked body of a frame of pages.
#[derive(Clone, Copy, Debug)]
pub struct PagesBody<'a> {
    /// Round of precopy the pages belong to.
    pub round: u32,
    runs: &'a [u8],
    data: &'a [u8],
}

impl<'a> PagesBody<'a> {
    /// Checks `body` whole: after this, its runs can be walked without errors.
    ///
    /// # Errors
    /// When a length, count or encoding is not what the format allows.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body, "pages frame");
        let round = cursor.u32()?;
        let count = usize::from(cursor.u16()?);
        let reserved = cursor.u16()?;
        if reserved != 0 {
            return Err(WireError::BadValue {
                what: "pages frame padding",
                value: reserved.into(),
            });
        }
        check_cap(
            "runs in a pages frame",
            count as u64,
            MAX_FRAME_PAGES as u64,
        )?;
        let runs = cursor.take(count * RUN_BYTES)?;
        let data = cursor.rest();
        let (mut pages, mut bytes) = (0u64, 0u64);
        for run in runs.chunks_exact(RUN_BYTES) {
            let run = RunRecord::decode(run)?;
            if run.pages == 0 || run.first.checked_add(run.pages.into()).is_none() {
                return Err(WireError::BadValue {
                    what: "page run",
                    value: run.first,
                });
            }
            if !run.encoding.fits(run.pages.into(), run.data_bytes.into()) {
                let value = run.data_bytes.into();
                return Err(WireError::BadValue {
                    what: "length of a run's data",
                    value,
                });
            }
            pages += u64::from(run.pages);
            bytes += u64::from(run.data_bytes);
        }
        check_cap("pages in a frame", pages, MAX_FRAME_PAGES as u64)?;
        if bytes != data.len() as u64 {
            return Err(WireError::BadValue {
                what: "length of a frame's data",
                value: bytes,
            });
        }
        Ok(Self { round, runs, data })
    }

    /// The runs, in the order they were written.
    pub fn runs(&self) -> impl Iterator<Item = PageRun<'a>> {
        let mut data = self.data;
        self.runs.chunks_exact(RUN_BYTES).map_while(move |record| {
            let run = RunRecord::decode(record).ok()?;
            let (own, rest) = data.split_at_checked(run.data_bytes as usize)?;
            data = rest;
            Some(PageRun {
                range: PageRange::new(run.first, run.pages.into()),
                encoding: run.encoding,
                data: own,
            })
        })
    }
}

fn check_cap(what: &'static str, value: u64, cap: u64) -> Result<(), WireError> {
    if value > cap {
        Err(WireError::TooLarge { what, value, cap })
    } else {
        Ok(())
    }
}

struct RunRecord {
    first: u64,
    pages: u32,
    data_bytes: u32,
    encoding: Encoding,
}

impl RunRecord {
    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(bytes, "page run");
        let run = Self {
            first: cursor.u64()?,
            pages: cursor.u32()?,
            data_bytes: cursor.u32()?,
            encoding: Encoding::from_wire(cursor.u16()?)?,
        };
        match cursor.u16()? {
            0 => Ok(run),
            other => Err(WireError::BadValue {
                what: "page run padding",
                value: other.into(),
            }),
        }
    }
}

/// Builds the part of a pages frame before its data.
#[derive(Debug)]
pub struct PagesBuilder {
    /// Header and runs; at most `8 + MAX_FRAME_PAGES * RUN_BYTES` bytes, allocated once.
    head: Vec<u8>,
    runs: u16,
    /// The last run, kept open so that it can grow.
    open: Option<(PageRange, Encoding)>,
}

impl Default for PagesBuilder {
    fn default() -> Self {
        let head = Vec::with_capacity(8 + MAX_FRAME_PAGES * RUN_BYTES);
        Self {
            head,
            runs: 0,
            open: None,
        }
    }
}

impl PagesBuilder {
    /// Begins a frame of pages of `round`.
    pub fn begin(&mut self, round: u32) {
        self.head.clear();
        self.head.extend_from_slice(&round.to_le_bytes());
        self.head.extend_from_slice(&[0; 4]);
        self.runs = 0;
        self.open = None;
    }

    /// Adds a page whose data is a delta of `data_bytes`.
    pub fn add_delta(&mut self, page: PageIndex, data_bytes: usize) {
        self.close_run();
        let range = PageRange {
            first: page,
            count: PageCount(1),
        };
        self.put_run(range, Encoding::Delta, data_bytes as u64);
    }

    /// Adds pages whose data is a [`Reference`](super::Reference), at most
    /// [`MAX_REFERENCE_PAGES`].
    pub fn add_reference(&mut self, range: PageRange) {
        self.close_run();
        self.put_run(range, Encoding::Reference, REFERENCE_BYTES as u64);
    }

    /// Adds zero or raw pages: those whose data length follows from their number. Pages that go
    /// on where the last ones ended, in the same encoding, share a run.
    pub fn add(&mut self, range: PageRange, encoding: Encoding) {
        debug_assert!(
            matches!(encoding, Encoding::Raw | Encoding::Zero),
            "the others have lengths of their own"
        );
        if let Some((last, last_encoding)) = &mut self.open
            && *last_encoding == encoding
            && last.end() == range.first.0
        {
            last.count += range.count;
            return;
        }
        self.close_run();
        self.open = Some((range, encoding));
    }

    /// The finished head; the data of the raw runs follows it in the frame.
    pub fn finish(&mut self) -> &[u8] {
        self.close_run();
        self.head[4..6].copy_from_slice(&self.runs.to_le_bytes());
        &self.head
    }

    fn close_run(&mut self) {
        if let Some((range, encoding)) = self.open.take() {
            let data_bytes = match encoding {
                Encoding::Raw => range.bytes().0,
                Encoding::Zero | Encoding::Delta | Encoding::Reference => 0,
            };
            self.put_run(range, encoding, data_bytes);
        }
    }

    fn put_run(&mut self, range: PageRange, encoding: Encoding, data_bytes: u64) {
        debug_assert!(
            range.count.0 <= MAX_FRAME_PAGES as u64,
            "a run within a frame"
        );
        self.head.extend_from_slice(&range.first.0.to_le_bytes());
        self.head.extend_from_slice(&low_u32(range.count.0));
        self.head.extend_from_slice(&low_u32(data_bytes));
        self.head
            .extend_from_slice(&(encoding as u16).to_le_bytes());
        self.head.extend_from_slice(&[0; 2]);
        self.runs += 1;
    }
}

/// The bytes of a value that the frame's caps keep within 32 bits.
fn low_u32(value: u64) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbouring_pages_of_one_encoding_share_a_run() {
        let mut builder = PagesBuilder::default();
        builder.begin(7);
        builder.add(PageRange::new(10, 1), Encoding::Raw);
        builder.add(PageRange::new(11, 2), Encoding::Raw);
        builder.add(PageRange::new(13, 1), Encoding::Zero);
        builder.add(PageRange::new(20, 1), Encoding::Zero);
        let data = vec![5; 3 * PAGE_BYTES];
        let body = [builder.finish(), &data].concat();
        let pages = PagesBody::decode(&body).unwrap();
        assert_eq!(pages.round, 7);
        let runs: Vec<_> = pages
            .runs()
            .map(|r| (r.range, r.encoding, r.data.len()))
            .collect();
        assert_eq!(
            runs,
            [
                (PageRange::new(10, 3), Encoding::Raw, 3 * PAGE_BYTES),
                (PageRange::new(13, 1), Encoding::Zero, 0),
                (PageRange::new(20, 1), Encoding::Zero, 0),
            ]
        );
    }

    #[test]
    fn a_delta_is_one_page_with_a_length_of_its_own() {
        let mut builder = PagesBuilder::default();
        builder.begin(2);
        builder.add(PageRange::new(1, 1), Encoding::Raw);
        builder.add_delta(PageIndex(2), 5);
        builder.add_delta(PageIndex(3), 7);
        let body = [builder.finish(), &vec![1; PAGE_BYTES + 12]].concat();
        let pages = PagesBody::decode(&body).unwrap();
        let lengths: Vec<_> = pages.runs().map(|run| run.data.len()).collect();
        assert_eq!(lengths, [PAGE_BYTES, 5, 7]);
        // The same data as a delta of two pages, or of none.
        let mut wrong = body.clone();
        wrong[8 + RUN_BYTES + 8] = 2;
        assert!(PagesBody::decode(&wrong).is_err());
        builder.begin(2);
        builder.add_delta(PageIndex(2), 0);
        assert!(PagesBody::decode(builder.finish()).is_err());
    }

    #[test]
    fn a_reference_has_one_length_and_few_pages() {
        let mut builder = PagesBuilder::default();
        let mut body_of = |pages: usize, data: usize| {
            builder.begin(1);
            builder.add_reference(PageRange::new(5, pages as u64));
            [builder.finish(), &vec![0; data]].concat()
        };
        let body = body_of(MAX_REFERENCE_PAGES, REFERENCE_BYTES);
        let run = PagesBody::decode(&body).unwrap().runs().next().unwrap();
        assert_eq!(run.encoding, Encoding::Reference);
        assert_eq!(run.range, PageRange::new(5, MAX_REFERENCE_PAGES as u64));
        assert!(PagesBody::decode(&body_of(MAX_REFERENCE_PAGES + 1, REFERENCE_BYTES)).is_err());
        assert!(PagesBody::decode(&body_of(1, REFERENCE_BYTES - 1)).is_err());
        assert!(PagesBody::decode(&body_of(1, REFERENCE_BYTES + 1)).is_err());
    }

    #[test]
    fn more_pages_than_a_frame_may_hold_are_refused() {
        let mut builder = PagesBuilder::default();
        builder.begin(0);
        builder.add(PageRange::new(0, MAX_FRAME_PAGES as u64), Encoding::Zero);
        builder.add(PageRange::new(1000, 1), Encoding::Zero);
        let error = PagesBody::decode(builder.finish()).unwrap_err();
        assert_eq!(
            error,
            WireError::TooLarge {
                what: "pages in a frame",
                value: 257,
                cap: 256
            }
        );
    }

    proptest! {
        #[test]
        fn no_body_panics_and_what_decodes_walks_whole(
            round in any::<u32>(),
            count in 0u16..4,
            tail in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..120),
        ) {
            let mut body = round.to_le_bytes().to_vec();
            body.extend_from_slice(&count.to_le_bytes());
            body.extend_from_slice(&[0; 2]);
            body.extend_from_slice(&tail);
            if let Ok(pages) = PagesBody::decode(&body) {
                prop_assert_eq!(pages.runs().count(), usize::from(count));
            }
        }
    }
}
