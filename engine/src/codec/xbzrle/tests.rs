//! The codec against the oracles, with every kernel of this machine.

use super::*;
use crate::codec::simd;
use crate::units::PAGE_BYTES;
use proptest::prelude::*;

type Page = [u8; PAGE_BYTES];

fn page(seed: u8) -> Page {
    std::array::from_fn(|at| (at as u8).wrapping_mul(31).wrapping_add(seed))
}

/// `old` with the bytes of `changes` (place, length) replaced by others.
fn changed(old: &Page, changes: &[(usize, usize)]) -> Page {
    let mut new = *old;
    for (at, length) in changes {
        let end = (at + length).min(PAGE_BYTES);
        for byte in &mut new[*at..end] {
            *byte = !*byte;
        }
    }
    new
}

/// Checks one pair of pages with every kernel; the encoding if there is one.
fn check(old: &Page, new: &Page) -> Option<Vec<u8>> {
    let oracle = naive::encode(old, new);
    let mut first: Option<Vec<u8>> = None;
    for kernel in simd::available_diff() {
        let name = kernel.name();
        // Bytes behind the limit must stay.
        let mut out = [0xa5; PAGE_BYTES + 64];
        let length = match encode_with(kernel, old, new, &mut out) {
            Encoded::Unchanged => {
                assert_eq!(old, new, "{name}");
                return None;
            }
            Encoded::Delta(length) => length,
            Encoded::Overflow => {
                // Gaps of two that are filled may cost a byte each 126.
                let shortest = oracle.expect("something changed").len();
                assert!(shortest + shortest / 126 > PAGE_BYTES, "{name}: {shortest}");
                return None;
            }
        };
        assert!((3..=PAGE_BYTES).contains(&length), "{name}: {length}");
        assert!(out[PAGE_BYTES..].iter().all(|byte| *byte == 0xa5), "{name}");
        let delta = &out[..length];
        let shortest = oracle.as_ref().expect("something changed").len();
        assert!(length <= shortest + shortest / 126, "{length}, {shortest}");
        assert_eq!(naive::decode(delta, old).as_deref(), Some(&new[..]));
        let mut decoded = *old;
        assert_eq!(decode(delta, &mut decoded), Ok(()));
        assert_eq!(&decoded, new, "{name}");
        match &first {
            None => first = Some(delta.to_vec()),
            Some(first) => assert_eq!(delta, first, "{name} and portable differ"),
        }
    }
    first
}

#[test]
fn a_record_captured_from_qemu_is_read_and_written_the_same() {
    // Skip 1132 bytes, then one literal.
    let captured = [0xec, 0x08, 0x01, 0x6d];
    let mut new = [0; PAGE_BYTES];
    decode(&captured, &mut new).unwrap();
    let mut expected = [0; PAGE_BYTES];
    expected[1132] = 0x6d;
    assert_eq!(new, expected);
    assert_eq!(check(&[0; PAGE_BYTES], &new).unwrap(), captured);
}

#[test]
fn equal_pages_are_unchanged() {
    assert_eq!(check(&page(3), &page(3)), None);
}

#[test]
fn every_single_run_at_every_place_is_found() {
    let old = page(1);
    for at in 0..PAGE_BYTES {
        // All lengths near the ends and around one border of words, then some everywhere.
        let lengths = match at {
            0..4 | 60..68 | 4000.. => (1..130).step_by(1),
            _ => (1 + at % 33..130).step_by(33),
        };
        for length in lengths.filter(|length| at + length <= PAGE_BYTES) {
            check(&old, &changed(&old, &[(at, length)])).expect("fits");
        }
    }
}

#[test]
fn every_pattern_of_ten_bytes_across_a_word_and_at_both_ends() {
    let old = page(7);
    for place in [0, 59, 64, PAGE_BYTES - 64 - 5, PAGE_BYTES - 10] {
        for pattern in 1..1u32 << 10 {
            let mut new = old;
            for bit in 0..10 {
                if pattern >> bit & 1 == 1 {
                    new[place + bit] ^= 0xff;
                }
            }
            check(&old, &new).expect("fits");
        }
    }
}

#[test]
fn every_period_is_survived() {
    let old = page(9);
    for period in (1..=70).chain([126, 127, 128, 129, 130, 200]) {
        for run in [1, 2, 3, period / 2 + 1, period] {
            let changes: Vec<_> = (0..PAGE_BYTES)
                .step_by(period)
                .map(|at| (at, run.min(period)))
                .collect();
            check(&old, &changed(&old, &changes));
        }
    }
}

#[test]
fn a_page_that_changed_whole_overflows_and_one_that_just_fits_does_not() {
    let old = page(0);
    let mut out = [0; PAGE_BYTES];
    for (length, expected) in [
        (PAGE_BYTES, Encoded::Overflow),
        (PAGE_BYTES - 2, Encoded::Overflow),
        // One byte for the zrun and two for the nzrun.
        (PAGE_BYTES - 3, Encoded::Delta(PAGE_BYTES)),
    ] {
        let new = changed(&old, &[(0, length)]);
        assert_eq!(encode(&old, &new, &mut out), expected, "{length}");
    }
}

#[test]
fn nothing_is_written_beyond_any_output_and_all_that_fits_is() {
    let old = page(0);
    // Runs of every length from 1 to 20 with gaps between them, then a long one.
    let mut changes: Vec<_> = (1..20).map(|length| (length * 40, length)).collect();
    changes.push((1000, 200));
    changes.push((4090, 6));
    let new = changed(&old, &changes);
    let whole = check(&old, &new).unwrap();
    for limit in 0..whole.len() + 40 {
        let mut out = vec![0xa5; limit + 40];
        let encoded = encode(&old, &new, &mut out[..limit]);
        assert_eq!(out[limit..], [0xa5; 40]);
        if limit < whole.len() {
            assert_eq!(encoded, Encoded::Overflow, "{limit}");
        } else {
            assert_eq!(encoded, Encoded::Delta(whole.len()), "{limit}");
            assert_eq!(out[..whole.len()], whole);
        }
    }
}

#[test]
fn alignment_does_not_matter() {
    let mut memory = vec![0; 3 * PAGE_BYTES];
    let (old, new) = (page(2), changed(&page(2), &[(5, 3), (700, 90), (4095, 1)]));
    let expected = check(&old, &new).unwrap();
    for kernel in simd::available_diff() {
        for start in [0, 1, 3, 8, 31, 63] {
            memory[start..start + PAGE_BYTES].copy_from_slice(&old);
            let new_at = start / 2 + PAGE_BYTES + 64;
            memory[new_at..new_at + PAGE_BYTES].copy_from_slice(&new);
            let old = memory[start..].first_chunk().unwrap();
            let new = memory[new_at..].first_chunk().unwrap();
            let mut out = [0; PAGE_BYTES];
            let encoded = encode_with(kernel, old, new, &mut out);
            assert_eq!(encoded, Encoded::Delta(expected.len()));
            assert_eq!(out[..expected.len()], expected);
        }
    }
}

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
fn check_decode(delta: &[u8], before: &[u8]) {
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

fn changes() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let sparse = prop::collection::vec((0..PAGE_BYTES, 1usize..20), 0..10);
    let words = prop::collection::vec((0..PAGE_BYTES / 8).prop_map(|w| (w * 8, 8)), 0..100);
    let dense = prop::collection::vec((0..PAGE_BYTES, 1usize..4), 0..1500);
    let long = prop::collection::vec((0..PAGE_BYTES, 1usize..2000), 0..4);
    prop_oneof![sparse, words, dense, long]
}

proptest! {
    #[test]
    fn any_change_survives(seed: u8, changes in changes()) {
        let old = page(seed);
        check(&old, &changed(&old, &changes));
    }

    #[test]
    fn any_bytes_are_read_as_the_oracle_does(
        delta in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..200),
        page_bytes in prop_oneof![0usize..300, Just(PAGE_BYTES)],
    ) {
        check_decode(&delta, &page(5)[..page_bytes]);
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
