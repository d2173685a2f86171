//! Blocks of pages: LZ4 and zstd.

use pagelift_engine::codec::block::{BlockDecoder, BlockEncoder, MAX_BLOCK_PAGES, paying_bytes};
use pagelift_engine::codec::{BlockFormat, Codec, CompressSetting};
use pagelift_engine::units::PAGE_BYTES;
use std::cell::RefCell;

/// What a buffer holds before a block is unpacked: nothing of it may be left.
const BEFORE: u8 = 0xa5;

/// A decoder and an encoder that are used again, as the pipeline does.
struct Codecs {
    decoder: BlockDecoder,
    encoder: BlockEncoder,
    pages: Vec<u8>,
}

thread_local! {
    static CODECS: RefCell<Codecs> = RefCell::new(Codecs {
        decoder: BlockDecoder::new(),
        encoder: BlockEncoder::new(&[]),
        pages: vec![0; MAX_BLOCK_PAGES * PAGE_BYTES],
    });
}

/// Unpacks `data` to so many pages, twice; what comes out must be the same, or nothing.
fn unpack(codecs: &mut Codecs, format: BlockFormat, data: &[u8], pages: usize) -> bool {
    let Codecs {
        decoder,
        pages: room,
        ..
    } = codecs;
    let (out, beyond) = room.split_at_mut(pages * PAGE_BYTES);
    beyond.fill(BEFORE);
    out.fill(BEFORE);
    let first = decoder.decode(format, data, out);
    if first.is_err() {
        assert!(
            out.iter().all(|byte| *byte == 0),
            "a refused block leaves nothing"
        );
    }
    let once = out.to_vec();
    out.fill(!BEFORE);
    assert_eq!(decoder.decode(format, data, out), first);
    assert!(
        out == once,
        "what a block holds depends on what was there before"
    );
    assert!(
        beyond.iter().all(|byte| *byte == BEFORE),
        "written past the pages"
    );
    first.is_ok()
}

/// The format (even: LZ4, odd: zstd), pages less one, a block.
pub fn block_decode(data: &[u8]) {
    let [format, pages, block @ ..] = data else {
        return;
    };
    let format = match format % 2 {
        0 => BlockFormat::Lz4,
        _ => BlockFormat::Zstd,
    };
    let pages = 1 + usize::from(*pages) % MAX_BLOCK_PAGES;
    CODECS.with_borrow_mut(|codecs| {
        let fits = unpack(codecs, format, block, pages);
        if fits && pages < MAX_BLOCK_PAGES {
            let more = unpack(codecs, format, block, pages + 1);
            assert!(!more, "a block of {pages} pages is none of more");
        }
    });
}

/// Pages less one (at most 4), a block: LZ4 by our decoder must be what it is by `lz4_flex`.
pub fn lz4_decode(data: &[u8]) {
    let [pages, block @ ..] = data else {
        return;
    };
    let pages = 1 + usize::from(*pages) % 4;
    let mut expected = vec![0; pages * PAGE_BYTES];
    let length = lz4_flex::block::decompress_into(block, &mut expected);
    let whole = length.is_ok_and(|length| length == expected.len());
    CODECS.with_borrow_mut(|codecs| {
        assert_eq!(unpack(codecs, BlockFormat::Lz4, block, pages), whole);
        assert!(!whole || codecs.pages[..expected.len()] == expected);
    });
}

/// Codecs, to be chosen by a byte; those that the build lacks are left out.
fn codec(byte: u8) -> Codec {
    let names = ["lz4", "zstd:-50", "zstd:-1", "zstd:1", "zstd:3", "zstd:7"];
    let name = names[usize::from(byte) % names.len()];
    match name.parse() {
        Ok(CompressSetting::Fixed(codec)) => codec,
        _ => Codec::Lz4,
    }
}

/// A codec, pages less one (at most 8), damage: a place (two bytes) and what is added there;
/// the content, repeated.
pub fn block_encode(data: &[u8]) {
    let [name, pages, low, high, damage, content @ ..] = data else {
        return;
    };
    if content.is_empty() {
        return;
    }
    let codec = codec(*name);
    let format = codec.format().expect("a codec that packs");
    let pages = 1 + usize::from(*pages) % 8;
    let content: Vec<u8> = content
        .iter()
        .copied()
        .cycle()
        .take(pages * PAGE_BYTES)
        .collect();
    CODECS.with_borrow_mut(|codecs| {
        let mut packed = vec![0; content.len()];
        let Some(length) = codecs.encoder.encode(codec, &content, &mut packed) else {
            return;
        };
        assert!(length <= paying_bytes(content.len()));
        packed.truncate(length);
        assert!(unpack(codecs, format, &packed, pages));
        assert!(codecs.pages[..content.len()] == content);
        let at = usize::from(u16::from_le_bytes([*low, *high])) % length;
        packed[at] = packed[at].wrapping_add(*damage);
        unpack(codecs, format, &packed, pages);
        unpack(codecs, format, &packed[..at], pages);
    });
}
