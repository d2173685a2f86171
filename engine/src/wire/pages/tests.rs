//! Bodies that were built, bodies that must be refused, and any bytes at all.

use proptest::prelude::*;

use super::*;
use crate::codec::{BlockFormat, SameFilled};
use crate::units::{PAGE_BYTES, PageIndex};
use crate::wire::{MAX_REFERENCE_PAGES, PagesBuilder, Place, Reference};

type Listed = (PageRange, Encoding, usize, u64);

fn listed(body: &[u8]) -> Result<Vec<Listed>, WireError> {
    let listed = |run: PageRun<'_>| (run.range, run.encoding, run.data.len(), run.block.0);
    PagesBody::decode(body).map(|body| body.runs().map(listed).collect())
}

/// The body that `builder` has, with `data` for its pages.
fn body(builder: &mut PagesBuilder, data: &[u8]) -> Vec<u8> {
    let (head, own) = builder.finish();
    [head, data, own].concat()
}

fn record(first: u64, pages: u32, bytes: u32, encoding: u16) -> Vec<u8> {
    let mut record = first.to_le_bytes().to_vec();
    record.extend_from_slice(&pages.to_le_bytes());
    record.extend_from_slice(&bytes.to_le_bytes());
    record.extend_from_slice(&encoding.to_le_bytes());
    record.extend_from_slice(&[0; 2]);
    record
}

/// A body of these records, with as much data as they say.
fn body_of(records: &[(u64, u32, u32, u16)]) -> Vec<u8> {
    let mut body = 1u32.to_le_bytes().to_vec();
    body.extend_from_slice(&(records.len() as u16).to_le_bytes());
    body.extend_from_slice(&[0; 2]);
    for (first, pages, bytes, encoding) in records {
        body.extend_from_slice(&record(*first, *pages, *bytes, *encoding));
    }
    let bytes: usize = records.iter().map(|record| record.2 as usize).sum();
    body.resize(body.len() + bytes, 7);
    body
}

#[test]
fn neighbouring_pages_of_one_encoding_share_a_run() {
    let mut builder = PagesBuilder::default();
    builder.begin(7);
    builder.add_raw(PageRange::new(10, 1));
    builder.add_raw(PageRange::new(11, 2));
    builder.add_zero(PageIndex(13));
    builder.add_zero(PageIndex(20));
    let body = body(&mut builder, &vec![5; 3 * PAGE_BYTES]);
    assert_eq!(PagesBody::decode(&body).unwrap().round, 7);
    assert_eq!(
        listed(&body).unwrap(),
        [
            (PageRange::new(10, 3), Encoding::Raw, 3 * PAGE_BYTES, 0),
            (PageRange::new(13, 1), Encoding::Zero, 0, 0),
            (PageRange::new(20, 1), Encoding::Zero, 0, 0),
        ]
    );
}

#[test]
fn a_delta_is_one_page_with_a_length_of_its_own() {
    let mut builder = PagesBuilder::default();
    builder.begin(2);
    builder.add_delta(PageIndex(2), &[1; 5]);
    builder.add_raw(PageRange::new(1, 1));
    builder.add_delta(PageIndex(3), &[2; 7]);
    let body = body(&mut builder, &[9; PAGE_BYTES]);
    let pages = PagesBody::decode(&body).unwrap();
    let data: Vec<_> = pages
        .runs()
        .map(|run| (run.range.first.0, run.data))
        .collect();
    // What has its data in the builder comes after what has it elsewhere.
    assert_eq!(
        data,
        [(1, &[9; PAGE_BYTES][..]), (2, &[1; 5]), (3, &[2; 7])]
    );
    assert!(listed(&body_of(&[(2, 2, 5, 2)])).is_err(), "of two pages");
    assert!(listed(&body_of(&[(2, 1, 0, 2)])).is_err(), "of nothing");
}

#[test]
fn neighbours_that_are_filled_with_one_word_share_a_run() {
    let mut builder = PagesBuilder::default();
    builder.begin(1);
    builder.add_same_filled(PageIndex(4), SameFilled([1; 8]));
    builder.add_same_filled(PageIndex(5), SameFilled([1; 8]));
    builder.add_same_filled(PageIndex(6), SameFilled([2; 8]));
    builder.add_same_filled(PageIndex(8), SameFilled([2; 8]));
    let body = body(&mut builder, &[]);
    let runs: Vec<_> = PagesBody::decode(&body)
        .unwrap()
        .runs()
        .map(|run| (run.range, run.data.to_vec()))
        .collect();
    assert_eq!(
        runs,
        [
            (PageRange::new(4, 2), vec![1; 8]),
            (PageRange::new(6, 1), vec![2; 8]),
            (PageRange::new(8, 1), vec![2; 8]),
        ]
    );
    assert!(listed(&body_of(&[(2, 1, 7, 3)])).is_err());
}

#[test]
fn a_block_carries_its_data_once_for_all_its_runs() {
    let mut builder = PagesBuilder::default();
    builder.begin(1);
    let ranges = [PageRange::new(1, 2), PageRange::new(9, 3)];
    builder.add_block(BlockFormat::Lz4, &ranges, 100);
    builder.add_block(BlockFormat::Zstd, &ranges[..1], 50);
    builder.add_raw(PageRange::new(20, 1));
    let body = body(&mut builder, &[5; 150 + PAGE_BYTES]);
    assert_eq!(
        listed(&body).unwrap(),
        [
            (ranges[0], Encoding::Lz4, 100, 5),
            (ranges[1], Encoding::More, 0, 0),
            (ranges[0], Encoding::Zstd, 50, 2),
            (PageRange::new(20, 1), Encoding::Raw, PAGE_BYTES, 0),
        ]
    );
}

#[test]
fn blocks_of_wrong_lengths_are_refused() {
    let content = 5 * PAGE_BYTES as u32;
    assert!(listed(&body_of(&[(1, 2, content, 4), (9, 3, 0, 6)])).is_ok());
    for (records, why) in [
        (&[(9, 3, 0, 6)][..], "continues nothing"),
        (&[(1, 1, 4096, 1), (2, 1, 0, 6)], "continues a raw run"),
        (&[(1, 2, 0, 4), (9, 3, 0, 6)], "no data"),
        (
            &[(1, 2, content + 1, 4), (9, 3, 0, 6)],
            "longer than its pages",
        ),
        (&[(1, 2, 100, 5), (9, 3, 5, 6)], "data of its own"),
        (&[(1, 60, 100, 5), (99, 5, 0, 6)], "65 pages"),
        (&[(1, 65, 100, 5)], "65 pages"),
        (&[(1, 1, 1, 8)], "unknown"),
    ] {
        assert!(listed(&body_of(records)).is_err(), "{why}");
    }
}

#[test]
fn a_reference_has_one_length_and_few_pages() {
    let most = MAX_REFERENCE_PAGES as u32;
    let reference = Reference {
        place: Place::Base(7),
        identity: 9,
    };
    let range = PageRange::new(5, most.into());
    let mut builder = PagesBuilder::default();
    builder.begin(1);
    builder.add_reference(range, &reference);
    let body = body(&mut builder, &[]);
    let run = PagesBody::decode(&body).unwrap().runs().next().unwrap();
    assert_eq!((run.range, run.encoding), (range, Encoding::Reference));
    assert_eq!(Reference::decode(run.data), Ok(reference));
    assert!(listed(&body_of(&[(5, most + 1, 24, 7)])).is_err());
    assert!(listed(&body_of(&[(5, 1, 23, 7)])).is_err());
    assert!(listed(&body_of(&[(5, 1, 25, 7)])).is_err());
}

#[test]
fn more_pages_than_a_frame_may_hold_are_refused() {
    let error = listed(&body_of(&[(0, 256, 0, 0), (1000, 1, 0, 0)])).unwrap_err();
    assert_eq!(
        error,
        WireError::TooLarge {
            what: "pages in a frame",
            value: 257,
            cap: 256
        }
    );
    assert!(listed(&body_of(&[(0, u32::MAX, 0, 0)])).is_err());
    assert!(listed(&body_of(&[(0, 1, 9, 4), (1000, u32::MAX, 0, 6)])).is_err());
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

    #[test]
    fn runs_of_accepted_bodies_keep_the_rules(
        records in prop::collection::vec(
            (0u64..500, 1u32..70, prop::sample::select(vec![0u32, 1, 8, 4096, 8192]), 0u16..8),
            0..6,
        ),
    ) {
        let body = body_of(&records);
        if let Ok(pages) = PagesBody::decode(&body) {
            prop_assert_eq!(pages.runs().count(), records.len());
            // Pages of the block under way that are still to come.
            let mut left = 0;
            for run in pages.runs() {
                if run.encoding == Encoding::More {
                    prop_assert!(run.data.is_empty());
                    prop_assert!(run.range.count.0 <= left);
                    left -= run.range.count.0;
                    continue;
                }
                prop_assert_eq!(left, 0);
                if run.encoding.is_block() {
                    prop_assert!((1..=MAX_BLOCK_PAGES as u64).contains(&run.block.0));
                    prop_assert!(!run.data.is_empty());
                    prop_assert!(run.data.len() as u64 <= run.block.bytes().0);
                    left = run.block.0 - run.range.count.0;
                }
            }
            prop_assert_eq!(left, 0);
        }
    }
}
