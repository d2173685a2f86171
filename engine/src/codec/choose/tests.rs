//! The chooser in a simulated migration, against every fixed codec.

mod sim;
mod start;

use super::*;
use crate::codec::block::BlockEncoder;
use sim::{Block, Kind, Link, Run, diverse, fixed_menu, mixed, simulate};
use std::num::NonZeroU16;

/// 100 Mbit/s, 1 and 10 Gbit/s, and no limit, in bytes a second.
const LINKS: [f64; 4] = [12.5e6, 125e6, 1.25e9, 1e12];

/// 4 GiB.
const BLOCKS: usize = 16384;

fn auto(stream: &[Block], link: Link, workers: u16) -> Run {
    simulate(
        CompressSetting::Auto,
        stream,
        link,
        workers,
        CpuLimit::default(),
    )
}

fn fixed(codec: Codec, stream: &[Block], link: Link, workers: u16) -> Run {
    let setting = CompressSetting::Fixed(codec);
    simulate(setting, stream, link, workers, CpuLimit::default())
}

/// The fixed codec that is done first.
fn best_fixed(stream: &[Block], link: Link, workers: u16) -> (f64, Codec) {
    fixed_menu()
        .into_iter()
        .map(|codec| (fixed(codec, stream, link, workers).seconds, codec))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .expect("there are codecs")
}

fn within_5_percent_of_the_best(name: &str, stream: &[Block]) {
    for workers in [1, 2, 8] {
        for rate in LINKS {
            let link = Link::steady(rate);
            let (best, codec) = best_fixed(stream, link, workers);
            let auto = auto(stream, link, workers);
            eprintln!(
                "{name}, {workers} workers, {:.0} Mbit/s: \
                 auto {:.3} s, {codec} {best:.3} s, {:+.1} %",
                rate * 8e-6,
                auto.seconds,
                (auto.seconds / best - 1.0) * 100.0,
            );
            assert!(auto.seconds <= best * 1.05, "{name}: {auto:?}");
        }
    }
}

#[test]
fn mixed_content_takes_at_most_5_percent_longer_than_the_best_fixed_codec() {
    within_5_percent_of_the_best("mixed", &mixed(BLOCKS, 1, 64));
}

#[test]
fn content_of_one_kind_takes_at_most_5_percent_longer_than_the_best_fixed_codec() {
    for kind in Kind::ALL {
        let stream = vec![Block::full(kind); BLOCKS];
        within_5_percent_of_the_best(&format!("{kind:?}"), &stream);
    }
}

/// Blocks of one class of which one packs to a tenth and the next not at all.
#[test]
fn blocks_that_differ_within_a_class_take_at_most_5_percent_longer() {
    within_5_percent_of_the_best("diverse", &diverse(BLOCKS, 8, 64));
}

#[test]
fn mostly_zero_content_takes_at_most_5_percent_longer_than_the_best_fixed_codec() {
    within_5_percent_of_the_best("mostly zero", &mixed(BLOCKS, 2, 6));
}

/// Connections that do not say what they hold are reckoned with.
#[test]
fn queues_that_cannot_be_seen_cost_little() {
    let stream = mixed(BLOCKS, 6, 64);
    for workers in [1, 2, 8] {
        for rate in LINKS {
            let (best, codec) = best_fixed(&stream, Link::steady(rate), workers);
            let link = Link {
                shows_queue: false,
                ..Link::steady(rate)
            };
            let auto = auto(&stream, link, workers);
            eprintln!(
                "unseen, {workers} workers, {rate:e}: auto {:.3} s, {codec} {best:.3} s, {:+.1} %",
                auto.seconds,
                (auto.seconds / best - 1.0) * 100.0
            );
            assert!(auto.seconds <= best * 1.15, "{auto:?}");
        }
    }
}

/// On a short path sockets hold less than a block, and a capped link even less.
#[test]
fn small_buffers_cost_little() {
    let stream = diverse(BLOCKS, 7, 64);
    for socket_bytes in [60e3, 200e3] {
        for workers in [1, 2, 8] {
            for rate in LINKS {
                let link = Link {
                    socket_bytes,
                    ..Link::steady(rate)
                };
                let (best, codec) = best_fixed(&stream, link, workers);
                let auto = auto(&stream, link, workers);
                eprintln!(
                    "{socket_bytes} bytes, {workers} workers, {rate:e}: auto {:.3} s, \
                     {codec} {best:.3} s, {:+.1} %",
                    auto.seconds,
                    (auto.seconds / best - 1.0) * 100.0
                );
                // Only where a block takes as long to pack as to carry is it more than 5 %.
                assert!(auto.seconds <= best * 1.15, "{auto:?}");
            }
        }
    }
}

#[test]
fn incompressible_content_goes_raw_where_the_link_is_not_limited() {
    let stream = vec![Block::full(Kind::Random); BLOCKS];
    for workers in [1, 4] {
        let link = Link::steady(1e12);
        let raw = fixed(Codec::Raw, &stream, link, workers);
        let auto = auto(&stream, link, workers);
        assert!(auto.seconds < raw.seconds * 1.02, "{auto:?} {raw:?}");
        assert!(auto.raw_blocks * 100 >= BLOCKS * 97, "{auto:?}");
    }
}

/// After a change of the link, what is left takes little longer than if it had always been so.
#[test]
fn it_adapts_when_the_link_changes() {
    let stream = mixed(BLOCKS, 3, 64);
    for (before, after) in [
        (125e6, 1e12),
        (1e12, 125e6),
        (1.25e9, 125e6),
        (12.5e6, 1.25e9),
    ] {
        let change_s = 0.2;
        let link = Link {
            changes_at: change_s,
            rate_after: after,
            ..Link::steady(before)
        };
        let run = auto(&stream, link, 2);
        let (best, codec) = best_fixed(&stream, Link::steady(after), 2);
        let left = 1.0 - run.done_at_change;
        let adapted = (run.seconds - change_s) / left;
        eprintln!("{before:e} -> {after:e}: {adapted:.3} s, {codec} {best:.3} s");
        // A second of what it learnt before, and of full buffers, weighs on a short run.
        assert!(adapted <= best * 1.05 + 0.1, "{run:?}");
    }
}

#[test]
fn it_keeps_to_a_limit_of_the_processor_and_makes_the_best_of_it() {
    let stream = mixed(BLOCKS, 4, 64);
    let limit: CpuLimit = "100%".parse().unwrap();
    for rate in LINKS {
        let link = Link::steady(rate);
        let run = |setting| simulate(setting, &stream, link, 4, limit);
        let auto = run(CompressSetting::Auto);
        let best = fixed_menu()
            .into_iter()
            .map(|codec| run(CompressSetting::Fixed(codec)).seconds)
            .fold(f64::INFINITY, f64::min);
        assert!(auto.cpu_seconds <= auto.seconds * 1.01, "{auto:?}");
        assert!(auto.seconds <= best * 1.05, "{best} {auto:?}");
    }
}

/// A target that is too slow must not be given packed pages: they only make it slower.
#[test]
fn a_slow_target_is_no_slow_link() {
    let cell = ContentClass::default();
    let run = |target_limited: f64| {
        let mut chooser = Chooser::new(CompressSetting::Auto, 1, CpuLimit::default());
        let mut raw = 0;
        for block in 0..4000u64 {
            let choice = chooser.choose_for(cell, 1 << 18);
            raw += u64::from(choice.codec() == Codec::Raw);
            let packs = choice.codec() != Codec::Raw;
            chooser.record(
                choice,
                Outcome {
                    input_bytes: 1 << 18,
                    wire_bytes: if packs { 1 << 17 } else { 1 << 18 },
                    read: Duration::from_micros(25),
                    encode: Duration::from_micros(if packs { 200 } else { 0 }),
                    send: Duration::from_micros(30),
                    waited: Duration::from_millis(1),
                    done: Instant(block * 1_000_000),
                    ..Outcome::default()
                },
            );
            if block % 50 == 49 {
                chooser.observe(
                    Instant(block * 1_000_000),
                    LinkConditions {
                        placed: Some(Rate(200 << 20)),
                        target_limited,
                        ..LinkConditions::default()
                    },
                );
            }
        }
        raw
    };
    assert!(run(0.0) < 100, "a slow link: packed");
    assert!(run(1.0) > 3500, "a slow target: raw");
}

/// How many of 4000 blocks of 256 KiB of `kind` went raw, one after each `period`: sent as
/// `outcome` says, which lacks what the codec makes of a block, while the link was as `link` says
/// at every `looks` blocks, for the bytes of the last.
fn raw_of_4000(
    kind: Kind,
    period: Duration,
    outcome: Outcome,
    looks: u32,
    link: impl Fn(u64) -> LinkConditions,
) -> u32 {
    let mut chooser = Chooser::new(CompressSetting::Auto, 2, CpuLimit::default());
    let mut raw = 0;
    for block in 0..4000 {
        let choice = chooser.choose_for(kind.class(), 1 << 18);
        let (mb_per_s, ratio) = kind.truth(choice.codec());
        raw += u32::from(choice.codec() == Codec::Raw);
        let wire_bytes = ((1 << 18) as f64 / ratio) as u64;
        let now = Instant(0).after(period * block);
        let outcome = Outcome {
            input_bytes: 1 << 18,
            wire_bytes,
            read: Duration::from_micros(90),
            encode: Duration::from_secs_f64((1 << 18) as f64 / mb_per_s / 1e6),
            send: Duration::from_micros(50),
            done: now,
            unsent_bytes: Some(0),
            buffer_bytes: Some(128 << 10),
            ..outcome
        };
        chooser.record(choice, outcome);
        if block % looks == 0 {
            chooser.observe(now, link(wire_bytes));
        }
    }
    raw
}

#[test]
fn time_spent_on_zeros_does_not_make_the_link_look_slow() {
    // A block of 256 KiB among zeros, now and then: sent in 140 us, and waited for 60.
    let raw_of = |besides: Duration| {
        let outcome = Outcome {
            waited: Duration::from_micros(60),
            besides,
            ..Outcome::default()
        };
        // Of both channels, a block in each millisecond.
        let link = |wire_bytes: u64| LinkConditions {
            placed: Some(Rate(2000 * wire_bytes)),
            idle: Some(0.0),
            ..LinkConditions::default()
        };
        let raw = raw_of_4000(Kind::Code, Duration::from_millis(1), outcome, 50, link);
        f64::from(raw) / 4000.0
    };
    let (alone, among_zeros) = (raw_of(Duration::ZERO), raw_of(Duration::from_micros(700)));
    assert!(among_zeros > 0.95, "{among_zeros}");
    assert!(alone < 0.7, "{alone}");
}

#[test]
fn a_link_that_is_full_while_threads_take_turns_is_not_taken_for_a_faster_one() {
    // Two threads that work for two thirds of their time, and a link that carries 600 MB/s. What a
    // MiB on the wire is worth, by the share of the time in which a connection carries something.
    let worth = |carrying| {
        let mut chooser = Chooser::new(CompressSetting::Auto, 2, CpuLimit::default());
        let bytes = 1 << 18;
        for block in 0..2000 {
            let choice = chooser.choose_for(ContentClass::RANDOM, bytes);
            let now = Instant(block * 300_000);
            let outcome = Outcome {
                input_bytes: bytes as u64,
                wire_bytes: bytes as u64,
                read: Duration::from_micros(200),
                waited: Duration::from_micros(100),
                done: now,
                ..Outcome::default()
            };
            chooser.record(choice, outcome);
            if block % 167 == 0 {
                let link = LinkConditions {
                    placed: Some(Rate(600_000_000)),
                    carrying,
                    ..LinkConditions::default()
                };
                chooser.observe(now, link);
            }
        }
        chooser.wire_time(1 << 20)
    };
    let [unknown, idles, full] = [None, Some(0.2), Some(0.5)].map(worth);
    assert_eq!(unknown, idles, "the model says more");
    assert!(
        full > unknown.mul_f64(1.1),
        "{full:?}, and before {unknown:?}"
    );
}

#[test]
fn time_without_a_processor_makes_packing_dear_only_where_none_is_idle() {
    // A link of 1.2 GB/s for two threads that work, wait for it, and are without a processor for a
    // third of the time each.
    let raw_of_idle = |idle| {
        let outcome = Outcome {
            waited: Duration::from_micros(140),
            delayed: Duration::from_micros(140),
            ..Outcome::default()
        };
        let link = |_| LinkConditions {
            placed: Some(Rate(1_200_000_000)),
            idle,
            ..LinkConditions::default()
        };
        raw_of_4000(Kind::Text, Duration::from_micros(420), outcome, 119, link)
    };
    for nothing_idle in [None, Some(0.0), Some(0.04)] {
        let raw = raw_of_idle(nothing_idle);
        assert!(
            raw > 3500,
            "{nothing_idle:?}: {raw} blocks of 4000 went raw"
        );
    }
    let raw = raw_of_idle(Some(0.3));
    assert!(
        raw < 500,
        "three tenths idle: {raw} blocks of 4000 went raw"
    );
}

#[test]
fn the_same_calls_give_the_same_choices() {
    let stream = mixed(2000, 5, 64);
    let run = || auto(&stream, Link::steady(125e6), 3);
    assert_eq!(run(), run());
}

#[test]
fn a_fixed_setting_is_always_what_it_says() {
    for (setting, codec) in [
        (CompressSetting::Fixed(Codec::Raw), Codec::Raw),
        (CompressSetting::Fixed(Codec::Lz4), Codec::Lz4),
        (CompressSetting::Xbzrle, Codec::Raw),
    ] {
        let mut chooser = Chooser::new(setting, 2, CpuLimit::default());
        assert_eq!(chooser.codecs(), [codec]);
        for block in 0..1000 {
            let choice = chooser.choose(&vec![block as u8; PAGE_BYTES]);
            assert_eq!(choice.codec(), codec);
            let outcome = Outcome {
                input_bytes: 4096,
                wire_bytes: 4096,
                encode: Duration::from_millis(5),
                ..Outcome::default()
            };
            chooser.record(choice, outcome);
        }
    }
}

/// With real pages and a real encoder: random pages go raw, text is packed, on a slow link.
#[test]
fn real_pages_are_told_apart() {
    let mut chooser = Chooser::new(CompressSetting::Auto, 1, CpuLimit::default());
    let mut encoder = BlockEncoder::new(chooser.codecs());
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
        let choice = chooser.choose(pages);
        let packed = encoder.encode(choice.codec(), pages, &mut out);
        raw[block % 2] += usize::from(choice.codec() == Codec::Raw);
        let wire_bytes = packed.unwrap_or(pages.len()) as u64;
        let outcome = Outcome {
            input_bytes: pages.len() as u64,
            wire_bytes,
            read: Duration::from_micros(25),
            encode: Duration::from_micros(if choice.codec() == Codec::Raw { 0 } else { 300 }),
            send: Duration::from_micros(30),
            waited: Duration::from_nanos(wire_bytes * 8),
            done: Instant(block as u64 * 1_000_000),
            ..Outcome::default()
        };
        chooser.record(choice, outcome);
        let now = Instant(block as u64 * 1_000_000);
        let placed = Some(Rate(125_000_000));
        chooser.observe(
            now,
            LinkConditions {
                placed,
                ..LinkConditions::default()
            },
        );
    }
    assert!(raw[0] > 180, "noise went raw in {} of 200 blocks", raw[0]);
    assert!(raw[1] < 5, "text went raw in {} of 200 blocks", raw[1]);
}

#[test]
fn a_limit_of_threads_is_for_the_pipeline_to_keep() {
    let limit: CpuLimit = "2".parse().unwrap();
    let wanted = NonZeroU16::new(4).unwrap();
    assert_eq!(limit.workers(wanted).get(), 2);
    assert_eq!(limit.stretch(2), 1.0);
}
