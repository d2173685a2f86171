//! Writes the body of a frame of pages.

use super::MAX_FRAME_PAGES;
use super::encoding::Encoding;
use super::pages::RUN_BYTES;
use super::reference::Reference;
use crate::codec::{BlockFormat, SameFilled};
use crate::units::{PAGE_BYTES, PageCount, PageIndex, PageRange};

/// Bytes before the runs.
const START_BYTES: usize = 8;

/// Builds a frame of pages, in buffers that are allocated once.
///
/// Pages whose data is large, raw ones and blocks, leave it where it is: the caller sends it
/// after the head. The data of the others is short, and kept here. A page comes once, so that
/// the order of runs is of no importance: theirs come last.
#[derive(Debug)]
pub struct PagesBuilder {
    /// Start and runs.
    head: Vec<u8>,
    runs: u16,
    /// The last run of zero or raw pages, kept open so that it can grow.
    open: Option<(PageRange, Encoding)>,
    /// Runs whose data is here.
    own_runs: Vec<u8>,
    own_data: Vec<u8>,
    /// The last run of filled pages, the last of `own_runs` if it is there.
    filled: Option<(PageRange, SameFilled)>,
}

impl Default for PagesBuilder {
    fn default() -> Self {
        let run_bytes = MAX_FRAME_PAGES * RUN_BYTES;
        Self {
            head: Vec::with_capacity(START_BYTES + run_bytes),
            runs: 0,
            open: None,
            own_runs: Vec::with_capacity(run_bytes),
            // The kernel gives memory for what is used of it.
            own_data: Vec::with_capacity(MAX_FRAME_PAGES * PAGE_BYTES),
            filled: None,
        }
    }
}

impl PagesBuilder {
    /// Begins a frame of pages of `round`.
    pub fn begin(&mut self, round: u32) {
        self.head.clear();
        self.head.extend_from_slice(&round.to_le_bytes());
        self.head.extend_from_slice(&[0; 4]);
        self.own_runs.clear();
        self.own_data.clear();
        self.runs = 0;
        self.open = None;
        self.filled = None;
    }

    /// Adds a page of zeros.
    pub fn add_zero(&mut self, page: PageIndex) {
        self.grow(one(page), Encoding::Zero);
    }

    /// Adds pages whose content is sent as it is.
    pub fn add_raw(&mut self, range: PageRange) {
        self.grow(range, Encoding::Raw);
    }

    /// Adds a page that the transport places.
    pub fn add_placed(&mut self, page: PageIndex) {
        self.grow(one(page), Encoding::Placed);
    }

    /// Adds pages that are packed together to `bytes` bytes.
    ///
    /// # Panics
    /// If there are none.
    pub fn add_block(&mut self, format: BlockFormat, ranges: &[PageRange], bytes: usize) {
        let (first, more) = ranges.split_first().expect("a block holds pages");
        self.close_run();
        self.runs += 1;
        put_run(&mut self.head, *first, format.into(), bytes);
        for range in more {
            self.runs += 1;
            put_run(&mut self.head, *range, Encoding::More, 0);
        }
    }

    /// Adds a page that is filled with one word. Returns the bytes that this adds to the data.
    pub fn add_same_filled(&mut self, page: PageIndex, fill: SameFilled) -> usize {
        if let Some((range, word)) = &mut self.filled
            && *word == fill
            && range.end() == page.0
        {
            range.count += PageCount(1);
            let last = self.own_runs.len() - RUN_BYTES;
            self.own_runs.truncate(last);
            put_run(
                &mut self.own_runs,
                *range,
                Encoding::SameFilled,
                fill.0.len(),
            );
            return 0;
        }
        self.add_own(page, Encoding::SameFilled, &fill.0);
        self.filled = Some((one(page), fill));
        fill.0.len()
    }

    /// Adds a page as a delta.
    pub fn add_delta(&mut self, page: PageIndex, delta: &[u8]) {
        self.add_own(page, Encoding::Delta, delta);
        self.filled = None;
    }

    /// Adds pages as a reference, at most [`MAX_REFERENCE_PAGES`](super::MAX_REFERENCE_PAGES).
    pub fn add_reference(&mut self, range: PageRange, reference: &Reference) {
        let data = reference.encode();
        self.runs += 1;
        put_run(&mut self.own_runs, range, Encoding::Reference, data.len());
        self.own_data.extend_from_slice(&data);
        self.filled = None;
    }

    /// The parts of the body that are made here: start and runs, which the data of raw pages and
    /// blocks follows, and the data that comes after it.
    pub fn finish(&mut self) -> (&[u8], &[u8]) {
        self.close_run();
        self.head.extend_from_slice(&self.own_runs);
        self.own_runs.clear();
        self.head[4..6].copy_from_slice(&self.runs.to_le_bytes());
        (&self.head, &self.own_data)
    }

    fn add_own(&mut self, page: PageIndex, encoding: Encoding, data: &[u8]) {
        self.runs += 1;
        put_run(&mut self.own_runs, one(page), encoding, data.len());
        self.own_data.extend_from_slice(data);
    }

    /// Adds pages to the open run if they go on where it ends, in the same encoding.
    fn grow(&mut self, range: PageRange, encoding: Encoding) {
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

    fn close_run(&mut self) {
        if let Some((range, encoding)) = self.open.take() {
            let bytes = match encoding {
                Encoding::Raw => range.len_bytes(),
                _ => 0,
            };
            self.runs += 1;
            put_run(&mut self.head, range, encoding, bytes);
        }
    }
}

fn one(page: PageIndex) -> PageRange {
    PageRange {
        first: page,
        count: PageCount(1),
    }
}

fn put_run(out: &mut Vec<u8>, range: PageRange, encoding: Encoding, data_bytes: usize) {
    debug_assert!(
        range.count.0 <= MAX_FRAME_PAGES as u64,
        "a run within a frame"
    );
    out.extend_from_slice(&range.first.0.to_le_bytes());
    out.extend_from_slice(&low_u32(range.count.0));
    out.extend_from_slice(&low_u32(data_bytes as u64));
    out.extend_from_slice(&(encoding as u16).to_le_bytes());
    out.extend_from_slice(&[0; 2]);
}

/// The bytes of a value that the frame's caps keep within 32 bits.
fn low_u32(value: u64) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}
