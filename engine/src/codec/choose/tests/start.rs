//! What the chooser does before the target has told how fast it places anything.

use super::super::*;
use super::sim::{Link, diverse};
use super::{auto, best_fixed};

/// Over 100 Mbit/s it takes a quarter of a second until enough is acknowledged to tell the rate.
/// What the thread itself got rid of tells a slow link from a fast one before that, and a single
/// write that was held up is no slow link.
#[test]
fn a_slow_link_is_noticed_before_the_target_tells_its_rate() {
    let cell = ContentClass::default();
    // The codec after frames of two raw blocks, whose writes waited for so long.
    let next_after = |frames_waited: &[Duration]| {
        let mut chooser = Chooser::new(CompressSetting::Auto, 2, CpuLimit::default());
        let mut now = Instant(0);
        for frame_waited in frames_waited {
            let waited = *frame_waited / 2;
            now = now.after(*frame_waited);
            for _ in 0..2 {
                let choice = chooser.choose_for(cell, 1 << 18);
                let packs = choice.codec() != Codec::Raw;
                let outcome = Outcome {
                    input_bytes: 1 << 18,
                    wire_bytes: if packs { 1 << 17 } else { 1 << 18 },
                    encode: Duration::from_micros(if packs { 480 } else { 0 }),
                    read: Duration::from_micros(30),
                    send: Duration::from_micros(60),
                    waited,
                    done: now,
                    unsent_bytes: Some(0),
                    buffer_bytes: Some(1 << 18),
                    ..Outcome::default()
                };
                chooser.record(choice, outcome);
            }
        }
        chooser.observe(now, LinkConditions::default());
        chooser.choose_for(cell, 1 << 18).codec()
    };
    // As measured on one of two connections over 100 Mbit/s.
    assert_ne!(next_after(&[Duration::from_millis(64)]), Codec::Raw);
    // No limit: waits of 0.2 ms, and one in which the target had no processor.
    let mut stalled = [Duration::from_micros(200); 120];
    stalled[80] = Duration::from_millis(6);
    assert_eq!(next_after(&stalled), Codec::Raw);
}

/// Raw bytes that go into the buffers of a slow link can never be taken back, so that the first
/// blocks are packed.
#[test]
fn the_first_blocks_are_packed_whatever_the_link_and_however_many_share_it() {
    for workers in [1, 2, 8] {
        let mut chooser = Chooser::new(CompressSetting::Auto, workers, CpuLimit::default());
        let codec = chooser.choose_for(ContentClass::default(), 1 << 18).codec();
        assert_ne!(codec, Codec::Raw);
        let codec = chooser.choose_for(ContentClass::RANDOM, 1 << 18).codec();
        assert_eq!(codec, Codec::Raw);
    }
}

/// Moves so short that the start weighs: bytes that were lost in it are lost for good.
#[test]
fn short_moves_lose_little_before_the_rate_of_the_link_is_known() {
    // Rate, blocks, and when the target's acknowledgements tell the rate.
    for (rate, blocks, told_at) in [
        (12.5e6, 64, 0.27),
        (125e6, 256, 0.1),
        (1.25e9, 2048, 0.06),
        (1e12, 2048, 0.06),
    ] {
        for socket_bytes in [200e3, 1e6] {
            let stream = diverse(blocks, 9, 64);
            let link = Link {
                socket_bytes,
                told_at,
                ..Link::steady(rate)
            };
            let (best, codec) = best_fixed(&stream, link, 2);
            let run = auto(&stream, link, 2);
            eprintln!(
                "start, {rate:e}, {socket_bytes}: auto {:.3} s, {codec} {best:.3} s, {:+.1} %",
                run.seconds,
                (run.seconds / best - 1.0) * 100.0
            );
            assert!(run.seconds <= best * 1.12, "{run:?}");
        }
    }
}
