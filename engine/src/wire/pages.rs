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
//!
//! A block of up to 64 pages that are packed together is a run that carries all of its data, and
//! any number of runs that continue it.
//!
//! [`PagesBody::decode`] checks a body once; walking its runs then takes no checks and no copies.

#[cfg(test)]
mod tests;

use super::WireError;
use super::bytes::{Cursor, cap};
use super::encoding::Encoding;
use crate::codec::block::MAX_BLOCK_PAGES;
use crate::units::{PageCount, PageRange};

/// Most pages in one frame.
pub const MAX_FRAME_PAGES: usize = 256;

/// Bytes that describe one run.
pub const RUN_BYTES: usize = 20;

/// Pages that are carried together, with their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun<'a> {
    /// The pages.
    pub range: PageRange,
    /// How they are carried.
    pub encoding: Encoding,
    /// Their data in that encoding.
    pub data: &'a [u8],
    /// If the run begins a block: pages of the whole block, at most [`MAX_BLOCK_PAGES`].
    pub block: PageCount,
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
    /// Checks `body` whole: after this, its runs can be walked without errors. What is packed in
    /// the data of blocks and deltas is for their decoders to check.
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
        cap(
            "runs in a pages frame",
            count as u64,
            MAX_FRAME_PAGES as u64,
        )?;
        let runs = cursor.take(count * RUN_BYTES)?;
        let data = cursor.rest();
        let (mut pages, mut bytes) = (0u64, 0u64);
        let mut block: Option<RunRecord> = None;
        for run in runs.chunks_exact(RUN_BYTES) {
            let run = RunRecord::decode(run)?;
            if run.pages == 0 || run.first.checked_add(run.pages.into()).is_none() {
                return Err(WireError::BadValue {
                    what: "page run",
                    value: run.first,
                });
            }
            pages += u64::from(run.pages);
            bytes += u64::from(run.data_bytes);
            cap("pages in a frame", pages, MAX_FRAME_PAGES as u64)?;
            if run.encoding == Encoding::More {
                // Within the cap of a frame, so the sum cannot overflow.
                let block = block.as_mut().ok_or(WireError::BadValue {
                    what: "page run that continues no block",
                    value: run.first,
                })?;
                block.pages += run.pages;
                run.check_length()?;
                continue;
            }
            if let Some(block) = block.take() {
                block.check_length()?;
            }
            if run.encoding.is_block() {
                block = Some(run);
            } else {
                run.check_length()?;
            }
        }
        if let Some(block) = block {
            block.check_length()?;
        }
        if bytes != data.len() as u64 {
            return Err(WireError::BadValue {
                what: "length of a frame's data",
                value: bytes,
            });
        }
        Ok(Self { round, runs, data })
    }

    /// Bytes of the pages that the transport has placed before.
    pub fn placed_bytes(&self) -> u64 {
        let placed = self.runs().filter(|run| run.encoding == Encoding::Placed);
        placed.map(|run| run.range.bytes().0).sum()
    }

    /// The runs, in the order they were written.
    pub fn runs(&self) -> impl Iterator<Item = PageRun<'a>> {
        let (mut records, mut data) = (self.runs, self.data);
        std::iter::from_fn(move || {
            let (record, rest) = records.split_at_checked(RUN_BYTES)?;
            records = rest;
            let run = RunRecord::decode(record).ok()?;
            let (own, rest) = data.split_at_checked(run.data_bytes as usize)?;
            data = rest;
            let mut block = 0;
            if run.encoding.is_block() {
                block = u64::from(run.pages) + continued(records);
            }
            Some(PageRun {
                range: PageRange::new(run.first, run.pages.into()),
                encoding: run.encoding,
                data: own,
                block: PageCount(block),
            })
        })
    }
}

/// Pages of the runs at the beginning of `records` that continue a block.
fn continued(records: &[u8]) -> u64 {
    records
        .chunks_exact(RUN_BYTES)
        .map_while(|record| RunRecord::decode(record).ok())
        .take_while(|run| run.encoding == Encoding::More)
        .map(|run| u64::from(run.pages))
        .sum()
}

/// A run as it is in the list.
#[derive(Clone, Copy, Debug)]
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

    /// Checks that the data can be that of so many pages: for a block, of all its runs.
    fn check_length(&self) -> Result<(), WireError> {
        if self.encoding.is_block() {
            let pages = self.pages.into();
            cap("pages in a block", pages, MAX_BLOCK_PAGES as u64)?;
        }
        if self
            .encoding
            .fits(self.pages.into(), self.data_bytes.into())
        {
            return Ok(());
        }
        Err(WireError::BadValue {
            what: "length of a run's data",
            value: self.data_bytes.into(),
        })
    }
}
