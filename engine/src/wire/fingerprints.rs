//! Fingerprints of base pages, and the pages that turned out to be missing.
//!
//! ```text
//! Fingerprints   0  u64  number of the first base page
//!             8  u64  fingerprints, one a page, 1..=512; 0 for a page that is not told
//! Missing     runs, 12 bytes each, 1..=256:
//!             0  u64  first page of the guest
//!             8  u32  number of pages, >= 1
//! ```

use super::bytes::Cursor;
use super::{MAX_FRAME_PAGES, WireError};
use crate::units::PageRange;

/// Most fingerprints in a frame: 4 KiB, so that an acknowledgement behind it does not wait long.
pub const MAX_FINGERPRINTS: usize = 512;

/// Bytes of a run of missing pages.
const MISSING_BYTES: usize = 12;

/// Fingerprints of the target's base pages: hints where content
/// may be found. A reference says for certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FingerprintChunk {
    /// Number of the first page.
    pub first: u64,
    /// Of that page and those after it; 0 for a page that there is nothing to say about, such as
    /// one of zeros.
    pub fingerprints: Vec<u64>,
}

impl FingerprintChunk {
    pub(super) fn encode(&self) -> Vec<u8> {
        debug_assert!(
            (1..=MAX_FINGERPRINTS).contains(&self.fingerprints.len()),
            "as many as a frame holds"
        );
        let mut out = Vec::with_capacity(8 + self.fingerprints.len() * 8);
        out.extend_from_slice(&self.first.to_le_bytes());
        for fingerprint in &self.fingerprints {
            out.extend_from_slice(&fingerprint.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body, "fingerprints");
        let first = cursor.u64()?;
        let rest = cursor.rest();
        let count = checked_count("fingerprints in a frame", rest.len(), 8, MAX_FINGERPRINTS)?;
        if first.checked_add(count as u64).is_none() {
            return Err(WireError::BadValue {
                what: "first page of a fingerprint frame",
                value: first,
            });
        }
        let (fingerprints, _) = rest.as_chunks();
        let fingerprints = fingerprints.iter().map(|bytes| u64::from_le_bytes(*bytes));
        Ok(Self {
            first,
            fingerprints: fingerprints.collect(),
        })
    }
}

pub(super) fn encode_missing(runs: &[PageRange]) -> Vec<u8> {
    debug_assert!(
        (1..=MAX_FRAME_PAGES).contains(&runs.len()),
        "those of one frame"
    );
    let mut out = Vec::with_capacity(runs.len() * MISSING_BYTES);
    for run in runs {
        let count = u32::try_from(run.count.0).unwrap_or(u32::MAX);
        out.extend_from_slice(&run.first.0.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
    }
    out
}

pub(super) fn decode_missing(body: &[u8]) -> Result<Vec<PageRange>, WireError> {
    let count = checked_count(
        "runs of missing pages",
        body.len(),
        MISSING_BYTES,
        MAX_FRAME_PAGES,
    )?;
    let mut cursor = Cursor::new(body, "missing pages");
    let mut runs = Vec::with_capacity(count);
    for _ in 0..count {
        let (first, pages) = (cursor.u64()?, cursor.u32()?);
        if pages == 0 || first.checked_add(pages.into()).is_none() {
            return Err(WireError::BadValue {
                what: "run of missing pages",
                value: first,
            });
        }
        runs.push(PageRange::new(first, pages.into()));
    }
    cursor.finish()?;
    Ok(runs)
}

/// How many records of `each` bytes are in `bytes`: at least one, at most `cap`, and no rest.
fn checked_count(
    what: &'static str,
    bytes: usize,
    each: usize,
    cap: usize,
) -> Result<usize, WireError> {
    let count = bytes / each;
    if count > cap {
        return Err(WireError::TooLarge {
            what,
            value: count as u64,
            cap: cap as u64,
        });
    }
    if count == 0 || !bytes.is_multiple_of(each) {
        return Err(WireError::Truncated { what });
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_chunk_reads_back_as_written(
            first in 0u64..1 << 40,
            fingerprints in prop::collection::vec(any::<u64>(), 1..=MAX_FINGERPRINTS),
        ) {
            let chunk = FingerprintChunk { first, fingerprints };
            prop_assert_eq!(FingerprintChunk::decode(&chunk.encode()), Ok(chunk));
        }

        #[test]
        fn missing_pages_read_back_as_written(
            runs in prop::collection::vec((0u64..1 << 40, 1u64..300), 1..=MAX_FRAME_PAGES),
        ) {
            let runs: Vec<_> = runs
                .into_iter()
                .map(|(at, count)| PageRange::new(at, count))
                .collect();
            prop_assert_eq!(decode_missing(&encode_missing(&runs)), Ok(runs));
        }

        #[test]
        fn no_input_panics_and_what_decodes_encodes_the_same(
            body in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            if let Ok(chunk) = FingerprintChunk::decode(&body) {
                prop_assert_eq!(&chunk.encode(), &body);
            }
            if let Ok(runs) = decode_missing(&body) {
                prop_assert_eq!(&encode_missing(&runs), &body);
            }
        }
    }

    #[test]
    fn too_many_too_few_and_impossible_ones_are_refused() {
        assert!(FingerprintChunk::decode(&[0; 8]).is_err(), "none");
        assert!(
            FingerprintChunk::decode(&[0; 20]).is_err(),
            "half a fingerprint"
        );
        assert!(FingerprintChunk::decode(&vec![0; 8 + 8 * MAX_FINGERPRINTS]).is_ok());
        assert!(FingerprintChunk::decode(&vec![0; 16 + 8 * MAX_FINGERPRINTS]).is_err());
        assert!(
            FingerprintChunk::decode(&[0xff; 16]).is_err(),
            "page numbers overflow"
        );
        assert!(decode_missing(&[]).is_err(), "none");
        assert!(decode_missing(&[0; 12]).is_err(), "a run of no pages");
        assert!(
            decode_missing(&[0xff; 12]).is_err(),
            "page numbers overflow"
        );
        assert!(decode_missing(&vec![1; 12 * MAX_FRAME_PAGES]).is_ok());
        assert!(decode_missing(&vec![1; 12 * (MAX_FRAME_PAGES + 1)]).is_err());
    }
}
