//! Round trips of all codecs and batch sizes, and blocks that are not what they should be.

mod lz4_decoding;

use super::*;
use crate::codec::ZstdLevel;
use proptest::prelude::*;

/// Every codec of this build that packs.
fn codecs() -> Vec<Codec> {
    let levels = [-50, -1, 1, 7];
    let zstd = levels
        .into_iter()
        .filter_map(|level| ZstdLevel::new(level).ok());
    [Codec::Lz4]
        .into_iter()
        .chain(zstd.map(Codec::Zstd))
        .collect()
}

fn formats() -> Vec<BlockFormat> {
    let mut formats: Vec<_> = codecs().into_iter().filter_map(Codec::format).collect();
    formats.dedup();
    formats
}

/// Pages that compress: words of a small language, in an order that the seed decides.
fn prose(pages: usize, seed: u64) -> Vec<u8> {
    let words = [
        "page ", "guest ", "moves ", "while ", "it ", "runs, ", "and ",
    ];
    let mut state = seed | 1;
    let mut text = Vec::new();
    while text.len() < pages * PAGE_BYTES {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(11);
        text.extend_from_slice(words[(state >> 40) as usize % words.len()].as_bytes());
    }
    text.truncate(pages * PAGE_BYTES);
    text
}

/// Pages that do not.
fn noise(pages: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..pages * PAGE_BYTES)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

fn packed(codec: Codec, pages: &[u8]) -> Vec<u8> {
    let mut out = vec![0; pages.len()];
    let len = BlockEncoder::new(&[])
        .encode(codec, pages, &mut out)
        .expect("these pages compress");
    out.truncate(len);
    out
}

#[test]
fn every_codec_brings_back_every_batch_size() {
    let codecs = codecs();
    let mut encoder = BlockEncoder::new(&codecs);
    let mut decoder = BlockDecoder::new();
    let mut out = vec![0; MAX_BLOCK_PAGES * PAGE_BYTES];
    // All lengths around the powers of two, where tables and formats change.
    for pages in [1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64] {
        let content = prose(pages, pages as u64);
        for codec in &codecs {
            let len = encoder.encode(*codec, &content, &mut out);
            let len = len.unwrap_or_else(|| panic!("{codec} does not pay for {pages} pages"));
            assert!(len <= paying_bytes(content.len()));
            let mut back = vec![0xaa; content.len()];
            let format = codec.format().expect("a codec that packs");
            assert_eq!(decoder.decode(format, &out[..len], &mut back), Ok(()));
            assert!(back == content, "{codec}, {pages} pages");
        }
    }
}

#[test]
fn noise_does_not_pay_and_neither_does_raw() {
    let mut encoder = BlockEncoder::new(&codecs());
    let mut out = vec![0; MAX_BLOCK_PAGES * PAGE_BYTES];
    for pages in [1, 15, 16, 64] {
        for codec in codecs() {
            assert_eq!(
                encoder.encode(codec, &noise(pages, 3), &mut out),
                None,
                "{codec}, {pages} pages"
            );
        }
        assert_eq!(encoder.encode(Codec::Raw, &prose(pages, 3), &mut out), None);
    }
}

#[test]
fn the_callers_buffer_bounds_the_result_and_an_encoder_goes_on_after_a_block_that_does_not_pay() {
    let content = prose(8, 1);
    for codec in codecs() {
        let mut encoder = BlockEncoder::new(&[codec]);
        let mut out = vec![0; content.len()];
        let len = encoder.encode(codec, &content, &mut out).expect("pays");
        let expected = out[..len].to_vec();
        assert_eq!(
            encoder.encode(codec, &content, &mut out[..len / 2]),
            None,
            "{codec}"
        );
        assert_eq!(encoder.encode(codec, &content, &mut []), None);
        assert_eq!(encoder.encode(codec, &noise(8, 1), &mut out), None);
        // Nothing of what came before shows in a block: each can be read alone.
        assert_eq!(encoder.encode(codec, &content, &mut out), Some(len));
        assert!(out[..len] == expected, "{codec}");
    }
}

#[test]
fn a_block_of_another_length_is_refused_and_the_buffer_cleared() {
    let mut decoder = BlockDecoder::new();
    for codec in codecs() {
        let format = codec.format().expect("a codec that packs");
        let data = packed(codec, &prose(4, 9));
        for pages in [1, 3, 5, 64] {
            let mut out = vec![0xaa; pages * PAGE_BYTES];
            let error = decoder.decode(format, &data, &mut out).unwrap_err();
            assert!(out.iter().all(|byte| *byte == 0), "{codec}, {pages} pages");
            let short = BlockError::Short {
                expected: pages * PAGE_BYTES,
                actual: 4 * PAGE_BYTES,
            };
            assert_eq!(error == short, pages > 4, "{codec}: {error}");
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let mut decoder = BlockDecoder::new();
    for codec in codecs() {
        let format = codec.format().expect("a codec that packs");
        let data = packed(codec, &prose(2, 5));
        for len in 0..data.len() {
            let mut out = vec![0xaa; 2 * PAGE_BYTES];
            assert!(decoder.decode(format, &data[..len], &mut out).is_err());
            assert!(out.iter().all(|byte| *byte == 0), "{codec}, {len} bytes");
        }
        let mut out = vec![0xaa; 2 * PAGE_BYTES];
        let longer = [&data[..], &[0x55; 3]].concat();
        assert!(decoder.decode(format, &longer, &mut out).is_err());
    }
}

#[test]
fn a_buffer_that_is_not_whole_pages_is_refused() {
    let mut decoder = BlockDecoder::new();
    for len in [0, 1, 4095, 65 * PAGE_BYTES] {
        let mut out = vec![0xaa; len];
        for format in formats() {
            assert_eq!(
                decoder.decode(format, &[0], &mut out),
                Err(BlockError::NotPages(len))
            );
        }
        assert!(out.iter().all(|byte| *byte == 0));
    }
}

/// The match reaches before the block: an old decoder copied what the buffer held (see
/// RUSTSEC-2026-0041).
#[test]
fn an_lz4_match_before_the_block_does_not_show_old_content() {
    let mut out = vec![0xaa; PAGE_BYTES];
    for offset in [0u16, 2, 4096, 65535] {
        // One literal, then a match of 4 + 15 + 16 * 255 bytes at the offset, then an end.
        let mut data = vec![0x1f, b'x'];
        data.extend_from_slice(&offset.to_le_bytes());
        data.extend_from_slice(&[255; 15]);
        data.extend_from_slice(&[200, 0x50, 1, 2, 3, 4, 5]);
        let result = BlockDecoder::new().decode(BlockFormat::Lz4, &data, &mut out);
        assert!(matches!(
            result,
            Err(BlockError::Malformed { format: "LZ4", .. })
        ));
        assert!(out.iter().all(|byte| *byte == 0), "offset {offset}");
        out.fill(0xaa);
    }
}

/// A frame may claim any length and any window: neither is believed, and none is allocated.
#[cfg(feature = "zstd")]
#[test]
fn a_zstd_frame_that_claims_much_is_refused() {
    let frames: [&[u8]; 4] = [
        // Single segment, content of 2^63 bytes, then an empty last block.
        &[
            0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0,
        ],
        // A window of 3.75 TiB, then a run of 2^21 - 1 zeros.
        &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0xfb, 0xff, 0xff, 0],
        // A dictionary that nobody has.
        &[0x28, 0xb5, 0x2f, 0xfd, 0x03, 0x58, 1, 2, 3, 4, 1, 0, 0],
        // A frame to be skipped that is longer than the data.
        &[0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff],
    ];
    for frame in frames {
        let mut out = vec![0xaa; PAGE_BYTES];
        let error = BlockDecoder::new()
            .decode(BlockFormat::Zstd, frame, &mut out)
            .unwrap_err();
        assert!(matches!(
            error,
            BlockError::Malformed { format: "zstd", .. }
        ));
        assert!(out.iter().all(|byte| *byte == 0));
    }
}

#[cfg(not(feature = "zstd"))]
#[test]
fn a_build_without_zstd_says_how_to_do_without() {
    let mut out = vec![0xaa; PAGE_BYTES];
    let error = BlockDecoder::new()
        .decode(BlockFormat::Zstd, &[0x28, 0xb5, 0x2f, 0xfd], &mut out)
        .unwrap_err();
    assert!(error.to_string().contains("--compress lz4"), "{error}");
    assert!(out.iter().all(|byte| *byte == 0));
}

/// Pages as guests have them: stretches of noise, of one byte, and of what was there before.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let stretch = (0u8..3, any::<u64>(), 1usize..3000);
    (1usize..8, prop::collection::vec(stretch, 1..20)).prop_map(|(pages, stretches)| {
        let mut bytes: Vec<u8> = Vec::new();
        let mut at = 0;
        while bytes.len() < pages * PAGE_BYTES {
            let (kind, seed, len) = stretches[at % stretches.len()];
            at += 1;
            match kind {
                0 => bytes.extend_from_slice(&noise(1, seed)[..len]),
                1 => bytes.resize(bytes.len() + len, seed as u8),
                _ if bytes.is_empty() => bytes.push(7),
                _ => {
                    let from = seed as usize % bytes.len();
                    let upto = (from + len).min(bytes.len());
                    bytes.extend_from_within(from..upto);
                }
            }
        }
        bytes.truncate(pages * PAGE_BYTES);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_pays_comes_back(content in content()) {
        let codecs = codecs();
        let mut encoder = BlockEncoder::new(&codecs);
        let mut decoder = BlockDecoder::new();
        let mut out = vec![0; content.len()];
        for codec in codecs {
            let Some(len) = encoder.encode(codec, &content, &mut out) else {
                continue;
            };
            let mut back = vec![0xaa; content.len()];
            let format = codec.format().expect("a codec that packs");
            prop_assert_eq!(decoder.decode(format, &out[..len], &mut back), Ok(()));
            prop_assert!(back == content);
        }
    }

    /// No input makes a decoder panic or show what the buffer held before.
    #[test]
    fn a_damaged_block_shows_nothing_old(
        pages in 1usize..6,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let content = prose(pages, 3);
        let mut decoder = BlockDecoder::new();
        for codec in codecs() {
            let mut data = packed(codec, &content);
            for (at, byte) in &damage {
                let at = at.index(data.len());
                data[at] = *byte;
            }
            // 0xaa and 0x55 where the decoder does not write would differ.
            let format = codec.format().expect("a codec that packs");
            let results = [0xaa, 0x55].map(|old| {
                let mut out = vec![old; content.len()];
                let result = decoder.decode(format, &data, &mut out);
                (result, out)
            });
            prop_assert!(results[0] == results[1], "{}", codec);
        }
    }

    #[test]
    fn noise_is_no_block(data in prop::collection::vec(any::<u8>(), 0..300), pages in 1usize..4) {
        for format in formats() {
            let results = [0xaa, 0x55].map(|old| {
                let mut out = vec![old; pages * PAGE_BYTES];
                let result = BlockDecoder::new().decode(format, &data, &mut out);
                (result, out)
            });
            prop_assert!(results[0] == results[1]);
        }
    }
}

#[cfg(feature = "zstd")]
#[test]
fn contexts_take_no_more_than_they_are_said_to() {
    let mut out = vec![0; MAX_BLOCK_PAGES * PAGE_BYTES];
    for level in (-50..=19).filter(|level| *level != 0) {
        let level = ZstdLevel::new(level).unwrap();
        let mut encoder = BlockEncoder::new(&[Codec::Zstd(level)]);
        for pages in [1, 5, 17, 33, 64, 3, 64] {
            encoder.encode(Codec::Zstd(level), &prose(pages, 7), &mut out);
            let bytes = encoder.zstd.bytes(level);
            let most = zstd::most_bytes(level);
            assert!(bytes <= most, "level {}: {bytes} bytes", level.get());
        }
    }
}
