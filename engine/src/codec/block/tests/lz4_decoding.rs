//! The LZ4 decoder against that of `lz4_flex`, for any room: whole pages are a rule of blocks.

use super::super::lz4_decode::{Lz4Error, unpack};
use super::{noise, prose};
use lz4_flex::block::{compress, decompress_into};
use proptest::prelude::*;

/// What is around the room, so that a store beyond it shows.
const AROUND: usize = 64;

/// Unpacks into `room` bytes with both decoders, which must agree; what ours says.
fn check(data: &[u8], room: usize) -> Result<usize, Lz4Error> {
    let mut ours = vec![0xa5; AROUND + room + AROUND];
    let result = unpack(data, &mut ours[AROUND..AROUND + room]);
    assert_eq!(ours[..AROUND], [0xa5; AROUND]);
    assert_eq!(ours[AROUND + room..], [0xa5; AROUND]);
    let mut theirs = vec![0x5a; room];
    match (&result, decompress_into(data, &mut theirs)) {
        (Ok(length), Ok(expected)) => {
            assert_eq!(*length, expected);
            assert!(ours[AROUND..AROUND + length] == theirs[..expected]);
        }
        (Err(_), Err(_)) => {}
        (ours, theirs) => panic!("{ours:?}, but lz4_flex {theirs:?}: {data:02x?}"),
    }
    result
}

/// Adds the part of a length that does not fit its half of a token.
fn put_more(block: &mut Vec<u8>, length: usize) {
    if let Some(rest) = length.checked_sub(15) {
        block.resize(block.len() + rest / 255, 255);
        block.push((rest % 255) as u8);
    }
}

/// Adds literals, and a match behind them unless it is the last sequence.
fn put(block: &mut Vec<u8>, literals: usize, more: Option<(u16, usize)>) {
    let matched = more.map_or(0, |(_, length)| length - 4);
    block.push((literals.min(15) << 4 | matched.min(15)) as u8);
    put_more(block, literals);
    let seed = block.len();
    block.extend((0..literals).map(|at| (at * 7 + seed) as u8));
    if let Some((offset, _)) = more {
        block.extend(offset.to_le_bytes());
        put_more(block, matched);
    }
}

#[test]
fn every_offset_and_length_is_copied_wherever_the_room_ends() {
    for offset in (1..=34).chain([63, 64, 65]) {
        for length in (4..=70).chain([273, 274, 275, 600]) {
            let mut block = Vec::new();
            put(&mut block, 70, Some((offset, length)));
            let behind = [0, 5, 11, 40, 90][length % 5];
            put(&mut block, behind, None);
            let whole = 70 + length + behind;
            for room in [whole, whole + 1, whole + 100] {
                assert_eq!(check(&block, room), Ok(whole), "{offset}, {length}");
            }
            assert!(check(&block, whole - 1).is_err(), "{offset}, {length}");
        }
    }
}

#[test]
fn literals_of_every_length_are_copied_wherever_the_data_ends() {
    for literals in (0..=80).chain([269, 270, 271, 1000]) {
        for behind in [0, 1, 14, 15, 31, 33, 80] {
            let mut block = Vec::new();
            put(&mut block, 1, Some((1, 4)));
            put(&mut block, literals, Some((3, 18)));
            put(&mut block, behind, None);
            let whole = 5 + literals + 18 + behind;
            for room in [whole, whole + 3, whole + 100] {
                assert_eq!(check(&block, room), Ok(whole), "{literals}, {behind}");
            }
            for end in 0..block.len() {
                // A cut behind literals may be an end.
                let _ = check(&block[..end], whole);
            }
        }
    }
}

#[test]
fn each_fault_has_its_name() {
    let mut block = Vec::new();
    put(&mut block, 20, Some((20, 30)));
    put(&mut block, 70, None);
    assert_eq!(check(&block, 120), Ok(120));
    assert_eq!(check(&block, 119), Err(Lz4Error::TooLong));
    assert_eq!(check(&block, 40), Err(Lz4Error::TooLong));
    assert_eq!(check(&block, 0), Err(Lz4Error::TooLong));
    assert_eq!(check(&block[..30], 120), Err(Lz4Error::Truncated));
    assert_eq!(check(&[], 120), Err(Lz4Error::Truncated));
    // The offset is behind the token, the rest of the length, and 20 literals.
    for offset in [0u16, 21, 0xffff] {
        block[22..24].copy_from_slice(&offset.to_le_bytes());
        assert_eq!(check(&block, 120), Err(Lz4Error::Offset));
    }
    // A length that goes on to the end of the data, and one far beyond the room.
    assert_eq!(check(&[0xff; 300], 120), Err(Lz4Error::Truncated));
    let mut long = vec![0x1f, b'x', 1, 0];
    long.resize(300, 255);
    long.extend([0, 0x50, 1, 2, 3, 4, 5]);
    long.extend([0; 30]);
    assert_eq!(check(&long, 120), Err(Lz4Error::TooLong));
    // Nothing is a block: that of no content.
    assert_eq!(check(&[0], 0), Ok(0));
}

#[test]
fn blocks_of_pages_come_back() {
    for pages in [1, 2, 16, 64] {
        for content in [prose(pages, 3), noise(pages, 3), vec![0; pages * 4096]] {
            let block = compress(&content);
            assert_eq!(check(&block, content.len()), Ok(content.len()));
            assert!(check(&block, content.len() - 1).is_err());
        }
    }
}

/// Sequences (literals, offset, bytes of the match), most of them short.
fn sequences() -> impl Strategy<Value = Vec<(usize, u16, usize)>> {
    let literals = prop_oneof![4 => 0usize..15, 2 => 15usize..60, 1 => 200usize..600];
    let offset = prop_oneof![2 => 1u16..40, 1 => any::<u16>()];
    let length = prop_oneof![4 => 4usize..19, 2 => 19usize..60, 1 => 200usize..600];
    prop::collection::vec((literals, offset, length), 0..60)
}

proptest! {
    #[test]
    fn any_sequences_are_read_as_lz4_flex_does(
        sequences in sequences(),
        behind in 0usize..60,
        wild: bool,
        less in prop_oneof![Just(0usize), 0usize..200],
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut: prop::sample::Index,
    ) {
        let (mut block, mut content) = (Vec::new(), 0);
        for (literals, offset, length) in sequences {
            content += literals;
            // Most offsets within what there is, so that blocks go on.
            let within = 1 + usize::from(offset).wrapping_sub(1) % content.max(1);
            let offset = if wild { offset } else { within as u16 };
            put(&mut block, literals, Some((offset, length)));
            content += length;
        }
        put(&mut block, behind, None);
        let room = (content + behind).saturating_sub(less);
        let _ = check(&block, room);
        let _ = check(&block, content + behind + 100);
        for (at, byte) in damage {
            let at = at.index(block.len());
            block[at] = byte;
            let _ = check(&block, room);
        }
        let _ = check(&block[..cut.index(block.len())], room);
    }

    #[test]
    fn any_bytes_are_read_as_lz4_flex_does(
        data in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..0x20], 0..300),
        room in 0usize..5000,
    ) {
        let _ = check(&data, room);
    }
}
