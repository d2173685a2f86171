//! XBZRLE, against the format as it is described.

use pagelift_engine::codec::simd;
use pagelift_engine::codec::xbzrle::{Encoded, decode, encode_with};
use pagelift_engine::units::PAGE_BYTES;

fn page(seed: u8) -> [u8; PAGE_BYTES] {
    std::array::from_fn(|at| (at as u8).wrapping_mul(13).wrapping_add(seed))
}

/// A length, and what follows it.
fn take_uleb(delta: &[u8]) -> Option<(usize, &[u8])> {
    match delta {
        [low @ 0..0x80, rest @ ..] => Some((usize::from(*low), rest)),
        [low, high @ 0..0x80, rest @ ..] => {
            Some((usize::from(*low & 0x7f) + usize::from(*high) * 0x80, rest))
        }
        _ => None,
    }
}

/// The oracle: what the delta makes of the page.
fn decoded(delta: &[u8], page: &[u8]) -> Option<Vec<u8>> {
    let mut page = page.to_vec();
    let mut rest = delta;
    let mut at = 0;
    while !rest.is_empty() {
        let first = rest.len() == delta.len();
        let (zrun, nzrun);
        (zrun, rest) = take_uleb(rest)?;
        (nzrun, rest) = take_uleb(rest)?;
        if nzrun == 0 || (zrun == 0 && !first) {
            return None;
        }
        let literals;
        (literals, rest) = rest.split_at_checked(nzrun)?;
        at += zrun;
        page.get_mut(at..at + nzrun)?.copy_from_slice(literals);
        at += nzrun;
    }
    (delta.len() <= PAGE_BYTES).then_some(page)
}

/// A length of the page (0 for a whole one), a seed for its content, a delta.
pub fn xbzrle_decode(data: &[u8]) {
    let [length, seed, delta @ ..] = data else {
        return;
    };
    let before = page(*seed);
    let before = match length {
        0 => &before[..],
        length => &before[..usize::from(*length)],
    };
    let mut after = before.to_vec();
    check(delta, before, decode(delta, &mut after).is_ok(), &after);
}

/// The result of a decoder must be that of the oracle.
fn check(delta: &[u8], before: &[u8], fits: bool, after: &[u8]) {
    match (fits, decoded(delta, before)) {
        (true, Some(expected)) => assert_eq!(after, expected),
        (false, None) => assert_eq!(after, before, "a refused page must stay as it was"),
        (fits, expected) => panic!("{fits}, but the oracle {expected:02x?}"),
    }
}

/// A seed, the room for the delta in steps of 17 bytes, changes: place (two bytes), length, and
/// what is added to each byte.
pub fn xbzrle_encode(data: &[u8]) {
    let [seed, room, changes @ ..] = data else {
        return;
    };
    let old = page(*seed);
    let mut new = old;
    for change in changes.chunks_exact(4) {
        let start = usize::from(u16::from_le_bytes([change[0], change[1]])) % PAGE_BYTES;
        let end = (start + usize::from(change[2])).min(PAGE_BYTES);
        for byte in &mut new[start..end] {
            *byte = byte.wrapping_add(change[3]);
        }
    }
    let room = usize::from(*room) * 17;
    let mut first = None;
    for kernel in simd::available_diff() {
        let mut out = vec![0xa5; room + 64];
        let encoded = encode_with(kernel, &old, &new, &mut out[..room]);
        assert!(out[room..].iter().all(|byte| *byte == 0xa5));
        assert_eq!(*first.get_or_insert(encoded), encoded, "kernels disagree");
        match encoded {
            Encoded::Unchanged => assert_eq!(old, new),
            Encoded::Delta(length) => {
                assert!(length <= room.min(PAGE_BYTES));
                let mut after = old;
                decode(&out[..length], &mut after).expect("what was encoded");
                assert_eq!(after, new);
            }
            Encoded::Overflow => assert_ne!(old, new),
        }
    }
}
