//! `auto` in a simulated migration, against every fixed codec.

use super::super::throughput::CPU_POWER;
use super::sim::{Block, Kind, Link, Run, diverse, fixed_codecs, mixed, simulate};
use super::*;

/// 100 Mbit/s, 1 and 10 Gbit/s, and no limit, in bytes a second.
const LINKS: [f64; 4] = [12.5e6, 125e6, 1.25e9, 1e12];

/// 4 GiB.
const BLOCKS: usize = 16384;

fn auto(stream: &[Block], link: Link, channels: u16) -> Run {
    let limit = CpuLimit::default();
    simulate(CompressSetting::Auto, stream, link, channels, limit)
}

fn fixed(codec: Codec, stream: &[Block], link: Link, channels: u16) -> Run {
    let setting = CompressSetting::Fixed(codec);
    simulate(setting, stream, link, channels, CpuLimit::default())
}

/// What a run is judged by: its time, and a little its work (see `throughput`).
fn cost(run: &Run) -> f64 {
    run.seconds * run.cpu_seconds.powf(CPU_POWER)
}

/// The best fixed codec.
fn best_fixed(stream: &[Block], link: Link, channels: u16) -> (Run, Codec) {
    fixed_codecs()
        .into_iter()
        .map(|codec| (fixed(codec, stream, link, channels), codec))
        .min_by(|(a, _), (b, _)| cost(a).total_cmp(&cost(b)))
        .expect("there are codecs")
}

/// The rate of the link is found in 10 ms, which count in a move of 100 ms.
const START_S: f64 = 0.01;

/// Whether `auto` costs at most so many times what the best fixed codec does.
fn check(name: &str, stream: &[Block], link: Link, channels: u16, most: f64) {
    let (best, codec) = best_fixed(stream, link, channels);
    let auto = auto(stream, link, channels);
    let behind = cost(&auto) / cost(&best);
    eprintln!(
        "{name}, {channels} channels, {:.0} Mbit/s: auto {:.3} s, {codec} {:.3} s, {:+.1} %",
        link.rate * 8e-6,
        auto.seconds,
        best.seconds,
        (behind - 1.0) * 100.0,
    );
    let start = START_S / best.seconds;
    assert!(behind <= most + start, "{name}: {auto:?}, {codec} {best:?}");
}

/// The same over each link, with 1, 2 and 8 channels.
fn compare(name: &str, stream: &[Block], link: Link, most: f64) {
    for channels in [1, 2, 8] {
        for rate in LINKS {
            let link = Link {
                rate,
                rate_after: rate,
                ..link
            };
            check(name, stream, link, channels, most);
        }
    }
}

#[test]
fn mixed_content_costs_at_most_5_percent_more_than_with_the_best_fixed_codec() {
    compare("mixed", &mixed(BLOCKS, 1, 64), Link::steady(1.0), 1.05);
}

#[test]
fn content_of_one_kind_costs_at_most_5_percent_more_than_with_the_best_fixed_codec() {
    for kind in Kind::ALL {
        let stream = vec![Block::full(kind); BLOCKS];
        compare(&format!("{kind:?}"), &stream, Link::steady(1.0), 1.05);
    }
}

/// Blocks of one class of which one packs to a tenth and the next not at all.
#[test]
fn blocks_that_differ_within_a_class_cost_at_most_5_percent_more() {
    compare("diverse", &diverse(BLOCKS, 8, 64), Link::steady(1.0), 1.05);
}

#[test]
fn mostly_zero_content_costs_at_most_5_percent_more_than_with_the_best_fixed_codec() {
    compare("mostly zero", &mixed(BLOCKS, 2, 6), Link::steady(1.0), 1.05);
}

/// On a short path sockets hold less than a block, and a capped link even less.
#[test]
fn small_buffers_cost_little() {
    for socket_bytes in [60e3, 200e3] {
        let link = Link {
            socket_bytes,
            ..Link::steady(1.0)
        };
        // Only where a block takes as long to pack as to carry is it more than 5 %: 12 % of the time.
        let name = format!("{socket_bytes} bytes");
        compare(&name, &diverse(BLOCKS, 7, 64), link, 1.16);
    }
}

#[test]
fn incompressible_content_goes_raw_where_the_link_is_not_limited() {
    let stream = vec![Block::full(Kind::Random); BLOCKS];
    for channels in [1, 4] {
        let link = Link::steady(1e12);
        let raw = fixed(Codec::Raw, &stream, link, channels);
        let auto = auto(&stream, link, channels);
        assert!(auto.seconds < raw.seconds * 1.02, "{auto:?} {raw:?}");
        assert!(auto.raw_blocks * 100 >= BLOCKS * 97, "{auto:?}");
    }
}

/// After a change of the link, what is left takes little longer than if it had always been so.
#[test]
fn it_adapts_when_the_link_changes() {
    let stream = mixed(BLOCKS, 3, 64);
    // A slower link is noticed at once. A faster one is found by trying: the rate doubles in 0.4 s.
    for (before, after, learning_s) in [
        (1e12, 125e6, 0.1),
        (1.25e9, 125e6, 0.1),
        (12.5e6, 1.25e9, 0.1),
        (125e6, 1e12, 0.6),
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
        eprintln!(
            "{before:e} -> {after:e}: {adapted:.3} s, {codec} {:.3} s",
            best.seconds
        );
        assert!(adapted <= best.seconds * 1.05 + learning_s, "{run:?}");
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
        let best = fixed_codecs()
            .into_iter()
            .map(|codec| run(CompressSetting::Fixed(codec)).seconds)
            .fold(f64::INFINITY, f64::min);
        assert!(auto.cpu_seconds <= auto.seconds * 1.01, "{auto:?}");
        assert!(auto.seconds <= best * 1.05, "{best} {auto:?}");
    }
}

/// Where a codec saves less than 3 % of the time for twice the work, it is not worth it.
#[test]
fn a_little_time_is_not_worth_twice_the_work() {
    let stream = mixed(2048, 1, 64);
    let link = Link::steady(12.5e6);
    let hard = fixed(Codec::Zstd(ZstdLevel::new(7).unwrap()), &stream, link, 2);
    let auto = auto(&stream, link, 2);
    assert!(
        auto.cpu_seconds < hard.cpu_seconds * 0.6,
        "{auto:?} {hard:?}"
    );
    assert!(auto.seconds < hard.seconds * 1.05, "{auto:?} {hard:?}");
}

/// Moves so short that the start weighs: bytes that were lost in it are lost for good.
#[test]
fn short_moves_lose_little_before_the_rate_of_the_link_is_known() {
    for (rate, blocks) in [(12.5e6, 64), (125e6, 256), (1.25e9, 2048), (1e12, 2048)] {
        for socket_bytes in [200e3, 1e6] {
            let stream = diverse(blocks, 9, 64);
            let link = Link {
                socket_bytes,
                ..Link::steady(rate)
            };
            check("start", &stream, link, 2, 1.12);
        }
    }
}

#[test]
fn the_same_calls_give_the_same_choices() {
    let stream = mixed(2000, 5, 64);
    let run = || auto(&stream, Link::steady(125e6), 3);
    assert_eq!(run(), run());
}
