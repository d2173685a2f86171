//! The codec against the oracles, with every kernel of this machine.

mod decoding;

use super::*;
use crate::codec::simd;
use crate::units::PAGE_BYTES;
use decoding::check_decode;
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
    // Not ours, but as any encoder may write it: with gaps of a byte or two.
    if let Some(delta) = oracle.as_ref().filter(|delta| delta.len() <= PAGE_BYTES) {
        check_decode(delta, old);
    }
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

/// Every choice of runs and gaps of three to five bytes in a word, after and before others.
#[test]
fn every_word_of_many_short_runs_is_written_as_run_by_run() {
    let old = page(11);
    for choice in 0..1u32 << 14 {
        let mut changes = vec![(500, 9)];
        let (mut at, mut bits) = (512 + choice as usize % 5, choice / 4);
        while at < 512 + 140 {
            let (run, gap) = (1 + (bits & 3) as usize, 3 + (bits >> 2 & 1) as usize);
            changes.push((at, run));
            at += run + gap;
            bits = bits.rotate_right(3) ^ choice;
        }
        check(&old, &changed(&old, &changes)).expect("fits");
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
    // Words full of runs.
    changes.extend((1300..1700).step_by(5).map(|at| (at, 2)));
    changes.push((4090, 6));
    let new = changed(&old, &changes);
    let whole = check(&old, &new).unwrap();
    for limit in 0..whole.len() + 80 {
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
}
