//! `pagelift demo`: guests of many kinds that move and prove themselves.

use anyhow::Result;
use pagelift_tests::contract::{check_completed, check_stages, number};
use pagelift_tests::{Bed, Finished, Programs, Run, require};
use rustix::process::geteuid;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Runs the demo to its end.
fn demo(bed: &Bed, programs: &Programs, options: &[&str]) -> Result<Finished> {
    let mut command = programs.command(bed, "pagelift");
    command.arg("demo").args(options);
    Run::start(bed, "demo", command)?.wait()
}

/// The report of a demo that moved a guest of `memory_mib`, checked.
fn completed(finished: &Finished, memory_mib: u64) -> Result<Value> {
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report = finished.json()?;
    check_completed(&report, memory_mib * MIB);
    assert_eq!(report["verified"], true, "{report}");
    assert_eq!(report["proof"]["lost"], 0, "{report}");
    assert!(report["guest_slowdown_s"].is_number(), "{report}");
    let budget = number(&report, "/memory_bytes/budget");
    assert!(budget < 256.0 * MIB as f64, "{report}");
    for peak in ["/memory_bytes/peak", "/proof/target_memory_peak_bytes"] {
        let peak = number(&report, peak);
        assert!(peak > 0.0 && peak <= budget, "{report}");
    }
    Ok(report)
}

/// A seed that differs from run to run, and is in the message of whatever fails.
fn random_seed() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::from(since.subsec_nanos()) ^ since.as_secs()
}

/// A number from the environment.
fn scale(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// PAGELIFT_DEMO_RUNS=50 PAGELIFT_DEMO_MEMORY_MIB=1024 for the long form.
#[test]
fn every_pattern_arrives_whole() -> Result<()> {
    let programs = Programs::built()?;
    let seed = random_seed();
    let memory_mib = scale("PAGELIFT_DEMO_MEMORY_MIB", 64);
    for run in 0..scale("PAGELIFT_DEMO_RUNS", 6) {
        let bed = Bed::new()?;
        let seed = seed.wrapping_add(run);
        let pick = |words: &[&'static str]| words[(seed % words.len() as u64) as usize];
        let patterns = ["phases", "sequential", "uniform", "zipf"];
        let pattern = patterns[(run % 4) as usize];
        let words = [
            ("--memory", format!("{memory_mib}MiB")),
            ("--pattern", pattern.to_owned()),
            ("--seed", seed.to_string()),
            ("--write-size", pick(&["8", "64", "4096"]).to_owned()),
            ("--vcpus", pick(&["1", "2", "3", "5"]).to_owned()),
            ("--fill", pick(&["0", "0.3", "0.7", "1"]).to_owned()),
            ("--channels", pick(&["auto", "1", "4"]).to_owned()),
        ];
        let mut options = vec!["--json"];
        for (name, value) in &words {
            options.extend([name, value.as_str()]);
        }
        println!("{}", options.join(" "));
        let finished = demo(&bed, &programs, &options)?;
        let report = completed(&finished, memory_mib)?;
        println!(
            "  downtime {:.1} ms without the {:.1} ms of verify, {} rounds, {:.0} ms in all",
            number(&report, "/blackout_ms") - number(&report, "/blackout_parts/verify_ms"),
            number(&report, "/blackout_parts/verify_ms"),
            report["rounds"],
            number(&report, "/total_ms"),
        );
        bed.finish();
    }
    Ok(())
}

#[test]
fn a_capped_link_takes_several_rounds() -> Result<()> {
    let bed = Bed::new()?;
    let options = [
        "--memory=64MiB",
        "--link=400Mbit/s",
        "--dirty-rate=8MiB/s",
        "--json",
    ];
    let report = completed(&demo(&bed, &Programs::built()?, &options)?, 64)?;
    assert!(number(&report, "/rounds") > 2.0, "{report}");
    let rate = number(&report, "/wire_bytes") / number(&report, "/total_ms") * 1e3;
    assert!(rate < 60e6, "{rate} bytes/s: {report}");
    assert!(report["dirty_bytes_per_s"].is_number(), "{report}");
    bed.finish();
    Ok(())
}

/// Writes whole pages faster than the link can carry them: only a slower guest can move.
#[test]
fn a_guest_that_is_too_fast_is_slowed_down() -> Result<()> {
    let bed = Bed::new()?;
    let options = [
        "--memory=16MiB",
        "--fill=1",
        "--dirty-rate=100MiB/s",
        "--write-size=4096",
        "--link=200Mbit/s",
        "--json",
    ];
    let report = completed(&demo(&bed, &Programs::built()?, &options)?, 16)?;
    let throttled = number(&report, "/throttle_pct_max");
    assert!(throttled > 0.0 && throttled <= 95.0, "{report}");
    assert!(number(&report, "/guest_slowdown_s") > 0.0, "{report}");
    bed.finish();
    Ok(())
}

/// A guest of 16 MiB that takes a few rounds, once for each way to compress.
#[test]
fn every_way_to_compress_arrives_whole() -> Result<()> {
    let programs = Programs::built()?;
    for compress in [
        "auto", "none", "lz4", "zstd", "zstd:-50", "zstd:19", "xbzrle",
    ] {
        let bed = Bed::new()?;
        let compress = format!("--compress={compress}");
        let options = [
            "--memory=16MiB",
            "--link=400Mbit/s",
            "--dirty-rate=8MiB/s",
            &compress,
            "--json",
        ];
        let report = completed(&demo(&bed, &programs, &options)?, 16)?;
        let sent = |kind: &str| number(&report, &format!("/pages/{kind}"));
        match compress.as_str() {
            "--compress=none" => {
                assert_eq!(number(&report, "/saved_bytes"), 0.0, "{report}");
                assert_eq!(sent("lz4") + sent("zstd") + sent("delta"), 0.0, "{report}");
            }
            "--compress=lz4" => assert_eq!(sent("zstd") + sent("delta"), 0.0, "{report}"),
            "--compress=xbzrle" => assert_eq!(sent("lz4") + sent("zstd"), 0.0, "{report}"),
            _ => {}
        }
        let target = json!({ "stages": report["target_stages"] });
        check_stages(&target, &["receive", "decode", "place"]);
        bed.finish();
    }
    Ok(())
}

/// The link could carry it in a fraction of the time.
#[test]
fn a_limit_of_the_processor_is_kept_and_named() -> Result<()> {
    let bed = Bed::new()?;
    let options = [
        "--memory=64MiB",
        "--fill=1",
        "--dirty-rate=1MiB/s",
        "--compress=zstd:3",
        "--cpu-limit=10%",
        "--json",
    ];
    let report = completed(&demo(&bed, &Programs::built()?, &options)?, 64)?;
    let seconds = |stage: &str| number(&report, &format!("/stages/{stage}"));
    let busy = seconds("read/busy_s") + seconds("encode/busy_s") + seconds("send/busy_s");
    let rested = seconds("encode/waiting_s");
    // Nine times as long as it worked, but for the last rest, which nothing comes after. On a
    // busy machine a stage's time is more than what it used of the processor.
    assert!(rested > busy, "{report}");
    assert_eq!(report["stages"]["bottleneck"], "cpu-limit", "{report}");
    bed.finish();
    Ok(())
}

#[test]
fn an_idle_guest_and_no_digests() -> Result<()> {
    let bed = Bed::new()?;
    let options = [
        "--memory=16MiB",
        "--dirty-rate=0MiB/s",
        "--no-verify",
        "--json",
    ];
    let finished = demo(&bed, &Programs::built()?, &options)?;
    let report = finished.json()?;
    check_completed(&report, 16 * MIB);
    assert_eq!(report["verified"], false);
    assert_eq!(number(&report, "/proof/writes_on_source"), 0.0);
    assert_eq!(number(&report, "/blackout_parts/verify_ms"), 0.0);
    bed.finish();
    Ok(())
}

#[test]
fn people_read_how_it_went() -> Result<()> {
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let finished = demo(&bed, &programs, &["--memory=16MiB"])?;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert!((4..=6).contains(&lines.len()), "{finished:?}");
    for (line, words) in [
        "completed: the guest runs on the target",
        "  total     ",
        "  downtime  ",
        "  sent      ",
    ]
    .iter()
    .enumerate()
    {
        assert!(lines[line].starts_with(words), "{finished:?}");
    }
    assert!(finished.stdout.contains("none lost"), "{finished:?}");
    // What it costs is said at the start, before anything happens.
    assert!(finished.stderr.contains("16.0 MiB in 2 vCPUs"));
    assert!(finished.stderr.contains("of memory of its own"));

    let finished = demo(&bed, &programs, &["--memory=16MiB", "--details"])?;
    assert_eq!(finished.code(), 0, "{finished:?}");
    for words in [
        "completed: ",
        "downtime ",
        "stages: read ",
        "verified: the digest of all memory was equal on both sides",
        "none lost",
    ] {
        assert!(finished.stdout.contains(words), "{finished:?}");
    }
    bed.finish();
    Ok(())
}

/// The userfaultfd that is left to everybody, limited to faults from user mode, must do.
#[test]
fn a_user_without_privileges_sees_the_demo() -> Result<()> {
    let bed = Bed::new()?;
    let programs = if geteuid().is_root() {
        require!(Programs::for_user(&bed, 65534))
    } else {
        Programs::built()?
    };
    let finished = demo(&bed, &programs, &["--memory=16MiB", "--json"])?;
    completed(&finished, 16)?;
    bed.finish();
    Ok(())
}
