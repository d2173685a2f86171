//! What the policies choose.

mod against_fixed;
mod held_out;
mod sim;

use super::*;
use crate::codec::block::BlockEncoder;
use crate::units::PAGE_BYTES;
use sim::Kind;
use std::num::NonZeroU16;

/// Raw bytes that go into the buffers of a slow link can never be taken back, so that the first
/// blocks are packed.
#[test]
fn the_first_blocks_are_packed_whatever_the_link_and_however_many_share_it() {
    for channels in [1, 2, 8] {
        let mut policy = policy(CompressSetting::Auto, |_| true, channels, 2.0);
        let mut codec = |class| policy.choose(class, 1 << 18).codec();
        assert_ne!(codec(Kind::Code.class()), Codec::Raw);
        assert_eq!(codec(BlockClass::RANDOM), Codec::Raw);
    }
}

/// How many of the last 1000 of 4000 blocks go raw, while each sample is as given but for the bytes
/// that blocks came to. A sample comes after every 100 blocks.
fn raw_of_1000(kind: Kind, sample: SendSample) -> usize {
    let mut policy = policy(CompressSetting::Auto, |_| true, 2, 2.0);
    let (mut raw, mut wire) = (0, 0);
    for block in 0..4000 {
        let choice = policy.choose(kind.class(), 1 << 18);
        let pack = |codec| {
            let (mb_per_s, ratio) = kind.truth(codec);
            Packed {
                input_bytes: 1 << 18,
                wire_bytes: ((1 << 18) as f64 / ratio) as u64,
                encode: Duration::from_secs_f64((1 << 18) as f64 / mb_per_s / 1e6),
            }
        };
        let packed = pack(choice.codec());
        policy.packed(choice, packed, choice.trial().map(pack));
        raw += usize::from(block >= 3000 && choice.codec() == Codec::Raw);
        // Both channels do the same.
        wire += 2 * packed.wire_bytes;
        if block % 100 == 99 {
            let sent = ByteCount(std::mem::take(&mut wire));
            policy.observe(SendSample { sent, ..sample });
        }
    }
    raw
}

/// A target that is too slow must not be given packed pages: they only make it slower.
#[test]
fn a_slow_target_is_no_slow_link() {
    let raw_if_busy = |busy| {
        let sample = SendSample {
            elapsed: Duration::from_millis(250),
            cpu: Duration::from_millis(40),
            waited: Duration::from_millis(200),
            target_busy: Some(busy),
            ..SendSample::default()
        };
        raw_of_1000(Kind::Code, sample)
    };
    assert_eq!(raw_if_busy(0.1), 0, "a slow link: packed");
    assert_eq!(raw_if_busy(1.0), 1000, "a slow target: raw");
}

/// Source and target on the same processors, with nothing idle, wait for each other in turn.
#[test]
fn waiting_for_a_processor_is_no_slow_link() {
    let raw_if_idle = |idle| {
        let sample = SendSample {
            elapsed: Duration::from_millis(40),
            cpu: Duration::from_millis(14),
            delayed: Duration::from_millis(10),
            waited: Duration::from_millis(16),
            idle: Some(idle),
            target_busy: Some(0.65),
            ..SendSample::default()
        };
        raw_of_1000(Kind::Text, sample)
    };
    assert_eq!(raw_if_idle(0.0), 1000, "nothing to spare");
    assert_eq!(raw_if_idle(1.0), 0, "half of two processors");
}

#[test]
fn a_fixed_setting_is_always_what_it_says() {
    for (setting, codec) in [
        (CompressSetting::Fixed(Codec::Raw), Codec::Raw),
        (CompressSetting::Fixed(Codec::Lz4), Codec::Lz4),
        (CompressSetting::Xbzrle, Codec::Raw),
    ] {
        let mut policy = policy(setting, |_| true, 2, 2.0);
        assert_eq!(policy.candidates(), [codec]);
        assert_eq!(policy.link_rate(), None);
        for class in BlockClass::all() {
            let choice = policy.choose(class, PAGE_BYTES);
            assert_eq!((choice.codec(), choice.trial()), (codec, None));
            let packed = Packed {
                input_bytes: 4096,
                wire_bytes: 4096,
                encode: Duration::from_millis(5),
            };
            policy.packed(choice, packed, None);
        }
    }
}

#[test]
fn only_what_the_target_reads_is_used() {
    let no_zstd = |codec| !matches!(codec, Codec::Zstd(_));
    let two = policy(CompressSetting::Auto, no_zstd, 2, 2.0);
    assert_eq!(two.candidates(), [Codec::Raw, Codec::Lz4]);
    let raw = |codec| codec == Codec::Raw;
    for setting in [CompressSetting::Auto, CompressSetting::Fixed(Codec::Lz4)] {
        assert_eq!(policy(setting, raw, 2, 2.0).candidates(), [Codec::Raw]);
    }
}

/// With real pages and a real encoder: random pages go raw, text is packed, on a slow link.
#[test]
fn real_pages_are_told_apart() {
    let mut policy = policy(CompressSetting::Auto, |_| true, 1, 1.0);
    let mut encoder = BlockEncoder::new(policy.candidates());
    let mut state = 1u64;
    let noise: Vec<u8> = (0..64 * PAGE_BYTES)
        .map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    let text: Vec<u8> = b"No page lost, and one owner. "
        .iter()
        .copied()
        .cycle()
        .take(64 * PAGE_BYTES)
        .collect();
    let mut out = vec![0; 64 * PAGE_BYTES];
    let mut raw = [0; 2];
    for block in 0..400usize {
        let pages = [&noise, &text][block % 2];
        let choice = policy.choose(BlockClass::of(pages), pages.len());
        let mut pack = |codec| Packed {
            input_bytes: pages.len() as u64,
            wire_bytes: encoder
                .encode(codec, pages, &mut out)
                .unwrap_or(pages.len()) as u64,
            encode: Duration::from_micros(if codec == Codec::Raw { 0 } else { 300 }),
        };
        let tried = choice.trial().map(&mut pack);
        let packed = pack(choice.codec());
        policy.packed(choice, packed, tried);
        raw[block % 2] += usize::from(choice.codec() == Codec::Raw);
        // 1 Gbit/s.
        let waited = Duration::from_nanos(packed.wire_bytes * 8);
        policy.observe(SendSample {
            elapsed: waited + Duration::from_micros(400),
            cpu: Duration::from_micros(400),
            waited,
            sent: ByteCount(packed.wire_bytes),
            ..SendSample::default()
        });
    }
    assert!(raw[0] > 180, "noise went raw in {} of 200 blocks", raw[0]);
    assert!(raw[1] < 5, "text went raw in {} of 200 blocks", raw[1]);
}

#[test]
fn a_limit_of_threads_is_for_the_pipeline_to_keep() {
    let limit: CpuLimit = "2".parse().unwrap();
    let wanted = NonZeroU16::new(4).unwrap();
    assert_eq!(limit.workers(wanted).get(), 2);
    assert_eq!(limit.pause(Duration::from_secs(1), 2), Duration::ZERO);
}
