//! The decoder against the oracle: what is malformed, and what any encoder may write.

use super::super::{XbzrleError, decode, naive};
use super::{changed, changes, check, page};
use crate::units::PAGE_BYTES;
use proptest::prelude::*;

#[test]
fn each_fault_has_its_name_and_place() {
    use XbzrleError::{BeyondPage, LongLength, TooLong, Truncated, ZeroLength};
    let cases: &[(&[u8], XbzrleError)] = &[
        (&[0], Truncated { at: 0 }),
        (&[5], Truncated { at: 0 }),
        (&[0x80], Truncated { at: 0 }),
        (&[1, 1], Truncated { at: 0 }),
        (&[1, 0x81], Truncated { at: 0 }),
        (&[0x81, 0x00], Truncated { at: 0 }),
        (&[1, 2, 9], Truncated { at: 0 }),
        (&[1, 1, 9, 7], Truncated { at: 3 }),
        (&[1, 0, 9], ZeroLength { at: 0 }),
        (&[1, 0x80, 0x00, 9], ZeroLength { at: 0 }),
        (&[1, 1, 9, 0, 1, 9], ZeroLength { at: 3 }),
        (&[1, 1, 9, 0x80, 0, 1, 9], ZeroLength { at: 3 }),
        (&[0x80, 0x80, 0x00, 1, 9], LongLength { at: 0 }),
        (&[1, 0x80, 0x80, 0x00, 9], LongLength { at: 0 }),
        (&[0x80, 0x20, 1, 9], BeyondPage { at: 0 }),
        (&[0xff, 0x1f, 2, 9, 9], BeyondPage { at: 0 }),
        (&[0xff, 0x7f, 1, 9], BeyondPage { at: 0 }),
    ];
    for (delta, error) in cases {
        assert_eq!(decode(delta, &mut page(0)), Err(*error), "{delta:02x?}");
        assert_eq!(naive::decode(delta, &page(0)), None, "{delta:02x?}");
    }
    let long = [0; PAGE_BYTES + 1];
    assert_eq!(
        decode(&long, &mut page(0)),
        Err(TooLong {
            length: PAGE_BYTES + 1
        })
    );
}

#[test]
fn what_need_not_be_minimal_is_read() {
    for delta in [
        &[][..],
        // A first zrun of zero, and in two bytes.
        &[0, 1, 9],
        &[0x80, 0, 1, 9],
        // Small lengths in two bytes.
        &[0x85, 0, 0x81, 0, 9],
        // The last byte of the page.
        &[0xff, 0x1f, 1, 9],
    ] {
        let mut decoded = page(4);
        assert_eq!(decode(delta, &mut decoded), Ok(()), "{delta:02x?}");
        let expected = naive::decode(delta, &page(4)).unwrap();
        assert_eq!(decoded[..], expected, "{delta:02x?}");
    }
}

/// Decodes and compares with the oracle; a page that is refused must stay as it was.
pub(super) fn check_decode(delta: &[u8], before: &[u8]) {
    let mut after = before.to_vec();
    match (decode(delta, &mut after), naive::decode(delta, before)) {
        (Ok(()), Some(expected)) => assert_eq!(after, expected, "{delta:02x?}"),
        (Err(_), None) => assert_eq!(after, before, "{delta:02x?}"),
        (result, oracle) => panic!("{delta:02x?}: {result:?}, but the oracle {oracle:02x?}"),
    }
}

/// All deltas of up to six bytes out of those that matter, on a page of five bytes.
#[test]
fn every_short_delta_is_read_as_the_oracle_does() {
    const BYTES: [u8; 7] = [0, 1, 2, 5, 0x7f, 0x80, 0x81];
    for length in 0..=6u32 {
        for number in 0..BYTES.len().pow(length) {
            let delta: Vec<u8> = (0..length)
                .map(|digit| BYTES[number / BYTES.len().pow(digit) % BYTES.len()])
                .collect();
            check_decode(&delta, &[10, 11, 12, 13, 14]);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_as_the_oracle_does(
        delta in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..200),
        page_bytes in prop_oneof![0usize..300, Just(PAGE_BYTES)],
    ) {
        check_decode(&delta, &page(5)[..page_bytes]);
    }

    #[test]
    fn runs_without_number_are_read_as_the_oracle_does(
        runs in prop::collection::vec((1u8..6, 1u8..20), 0..600),
        long in prop::option::of((prop::sample::Index::arbitrary(), 0x80u16..0x1000)),
        at: prop::sample::Index,
        value: u8,
        cut: prop::sample::Index,
    ) {
        let mut delta = Vec::new();
        let long = long.map(|(index, length)| (index.index(runs.len().max(1)), length));
        for (number, (zrun, nzrun)) in runs.iter().enumerate() {
            match long {
                Some((place, length)) if place == number => {
                    delta.extend([length as u8 | 0x80, (length >> 7) as u8]);
                }
                _ => delta.push(*zrun),
            }
            delta.push(*nzrun);
            delta.extend((0..*nzrun).map(|literal| literal ^ number as u8));
        }
        check_decode(&delta, &page(8));
        if !delta.is_empty() {
            let at = at.index(delta.len());
            delta[at] = value;
            check_decode(&delta, &page(8));
            check_decode(&delta[..cut.index(delta.len())], &page(8));
        }
    }

    #[test]
    fn a_damaged_delta_is_read_as_the_oracle_does(
        changes in changes(),
        at: prop::sample::Index,
        value: u8,
        cut: prop::sample::Index,
    ) {
        let old = page(6);
        if let Some(mut delta) = check(&old, &changed(&old, &changes)) {
            let at = at.index(delta.len());
            delta[at] = value;
            check_decode(&delta, &old);
            check_decode(&delta[..cut.index(delta.len())], &old);
        }
    }
}
