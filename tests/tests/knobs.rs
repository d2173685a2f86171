//! Migrations that are changed while they run: by `pagelift ctl`, and by their deadline.

use anyhow::Result;
use pagelift_tests::contract::{check_completed, check_failed, number};
use pagelift_tests::{
    Bed, Ctl, Finished, Programs, Qemu, Run, Workload, guest_images, process, require,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A demo, and the socket that steers it.
struct Demo<'a> {
    bed: &'a Bed,
    run: Run,
    ctl: Ctl<'a>,
}

impl<'a> Demo<'a> {
    fn start(bed: &'a Bed, options: &[&str]) -> Result<Self> {
        let socket = bed.runtime_dir().join("steer");
        let mut command = Programs::built()?.command(bed, "pagelift");
        command.arg("demo").arg("--control").arg(&socket);
        command.args(options).arg("--json");
        let run = Run::start(bed, "demo", command)?;
        let ctl = Ctl::new(bed, socket);
        ctl.wait_for_socket(&run)?;
        ctl.wait("in precopy", |status| status["phase"] == "precopy")?;
        Ok(Self { bed, run, ctl })
    }

    /// Its end, and that it has left no socket.
    fn wait(self) -> Result<Finished> {
        let finished = self.run.wait()?;
        assert!(!self.ctl.socket().exists(), "the socket is removed");
        let gone = self.ctl.run(&["status"])?;
        assert_eq!(gone.code(), 1, "{gone:?}");
        assert!(
            gone.stderr.contains("no migration listens there"),
            "{gone:?}"
        );
        assert!(self.bed.runtime_dir().read_dir()?.next().is_none());
        Ok(finished)
    }
}

/// Writes whole pages of all its memory much faster than the link carries them.
const HOPELESS: [&str; 5] = [
    "--memory=16MiB",
    "--fill=1",
    "--dirty-rate=400MiB/s",
    "--write-size=4096",
    "--link=200Mbit/s",
];

/// Takes minutes over its link.
const LONG: [&str; 3] = ["--memory=64MiB", "--link=2Mbit/s", "--deadline=none"];

fn throttled(status: &Value) -> bool {
    status["throttle_pct"].as_f64() > Some(0.0)
}

#[test]
fn a_cap_that_is_lifted_lets_the_guest_go() -> Result<()> {
    let bed = Bed::new()?;
    let demo = Demo::start(&bed, &LONG)?;
    let status = demo.ctl.status()?;
    assert_eq!(status["settings"]["bandwidth_bytes_per_s"], 250_000);
    assert_eq!(status["settings"]["deadline_ms"], Value::Null);
    assert_eq!(status["phase"], "precopy");
    // Twice, so that a cap is also put on again while somebody waits at it.
    demo.ctl.set(&["bandwidth=1Mbit/s"])?;
    demo.ctl.set(&["bandwidth=none", "downtime=10s"])?;
    let finished = demo.wait()?;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report = finished.json()?;
    check_completed(&report, 64 * MIB);
    assert_eq!(report["forced"], false);
    bed.finish();
    Ok(())
}

#[test]
fn a_cancelled_guest_is_free_again() -> Result<()> {
    let bed = Bed::new()?;
    let options = [&HOPELESS[..], &["--policy=classic", "--deadline=none"]].concat();
    let demo = Demo::start(&bed, &options)?;
    let status = demo.ctl.wait("throttled", throttled)?;
    assert_eq!(status["settings"]["policy"], "classic");
    let asked = demo.ctl.run(&["cancel"])?;
    assert_eq!(asked.code(), 0, "{asked:?}");
    let finished = demo.wait()?;
    assert_eq!(finished.code(), 3, "{finished:?}");
    let report = finished.json()?;
    let (code, _) = check_failed(&report, "cancelled");
    assert_eq!(code, "cancelled");
    let freed_ms = number(&report, "/guest_freed_after_ms");
    println!("measured: throttle released and tracking disarmed {freed_ms} ms after the request");
    assert!(freed_ms < 10_000.0, "{report}");
    bed.finish();
    Ok(())
}

#[test]
fn another_policy_takes_over() -> Result<()> {
    let bed = Bed::new()?;
    let trace = bed.dir().join("trace");
    let tracing = format!("--trace={}", trace.display());
    let options = ["--policy=classic", "--deadline=none", &tracing];
    let demo = Demo::start(&bed, &[&HOPELESS[..], &options].concat())?;
    let status = demo.ctl.wait("throttled", throttled)?;
    // For a while, so that the replay throttles it as well: its rounds end at other times.
    let until = number(&status, "/elapsed_ms") + 5_000.0;
    demo.ctl.wait("throttled for long", |status| {
        number(status, "/elapsed_ms") > until
    })?;
    demo.ctl.set(&["policy=none", "at-deadline=stop-trying"])?;
    let status = demo.ctl.wait("released", |status| !throttled(status))?;
    assert_eq!(status["settings"]["at_deadline"], "stop-trying");
    demo.ctl.set(&["downtime=20s"])?;
    let finished = demo.wait()?;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report = finished.json()?;
    check_completed(&report, 16 * MIB);
    assert!(number(&report, "/throttle_pct_max") >= 20.0, "{report}");

    let text = std::fs::read_to_string(&trace)?;
    let lines = |key: &str| text.lines().filter(|line| line.contains(key)).count();
    assert_eq!(lines("policy=classic"), 1, "{text}");
    assert_eq!(lines("policy=none"), 2, "{text}");
    let mut command = Programs::built()?.command(&bed, "pagelift");
    command
        .arg("replay")
        .arg(&trace)
        .args(["--as-recorded", "--json"]);
    let replayed = Run::start(&bed, "replay", command)?.wait()?;
    assert_eq!(replayed.code(), 0, "{replayed:?}");
    let replayed = replayed.json()?;
    assert_eq!(replayed["outcome"], "completed", "{replayed}");
    assert!(number(&replayed, "/throttle_pct_max") >= 20.0, "{replayed}");
    bed.finish();
    Ok(())
}

#[test]
fn a_deadline_forces_the_guest_and_says_so() -> Result<()> {
    let bed = Bed::new()?;
    let options = ["--policy=none", "--deadline=4s", "--at-deadline=force"];
    let demo = Demo::start(&bed, &[&HOPELESS[..], &options].concat())?;
    let finished = demo.wait()?;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report = finished.json()?;
    check_completed(&report, 16 * MIB);
    assert_eq!(report["forced"], true);
    // Nobody carries 16 MiB over 200 Mbit/s in that time.
    assert!(number(&report, "/blackout_ms") > 50.0, "{report}");
    assert!(number(&report, "/blackout_forecast_ms") > 50.0, "{report}");
    let said = finished
        .stderr
        .contains("the deadline is over: the guest is stopped now, for");
    assert!(said, "{finished:?}");
    bed.finish();
    Ok(())
}

#[test]
fn after_the_deadline_the_guest_may_be_let_alone() -> Result<()> {
    let bed = Bed::new()?;
    let options = [
        "--policy=classic",
        "--deadline=8s",
        "--at-deadline=stop-trying",
    ];
    let demo = Demo::start(&bed, &[&HOPELESS[..], &options].concat())?;
    demo.ctl.wait("throttled", throttled)?;
    let late = |status: &Value| status["elapsed_ms"].as_f64() > Some(8_000.0);
    let status = demo
        .ctl
        .wait("let go", |status| late(status) && !throttled(status))?;
    assert_eq!(status["phase"], "precopy");
    // It goes on, and moves as soon as it may.
    demo.ctl.set(&["downtime=20s"])?;
    let finished = demo.wait()?;
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert_eq!(finished.json()?["forced"], false);
    bed.finish();
    Ok(())
}

#[test]
fn a_deadline_in_the_past_counts_at_once() -> Result<()> {
    let bed = Bed::new()?;
    let demo = Demo::start(&bed, &LONG)?;
    demo.ctl.set(&["deadline=1ms"])?;
    let finished = demo.wait()?;
    assert_eq!(finished.code(), 1, "{finished:?}");
    let report = finished.json()?;
    let (code, message) = check_failed(&report, "failed");
    assert_eq!(code, "not-converging");
    assert!(
        message.contains("the time limit of 0 s is over"),
        "{message}"
    );
    assert_eq!(report["guest_freed_after_ms"], Value::Null);
    bed.finish();
    Ok(())
}

#[test]
fn what_makes_no_sense_changes_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let demo = Demo::start(&bed, &LONG)?;
    let before = demo.ctl.status()?["settings"].clone();
    for (words, code, reason) in [
        (&["set"][..], 2, "required"),
        (&["set", "downtime"], 2, "write NAME=VALUE"),
        (&["stop"], 2, "unrecognized subcommand"),
        (&["set", "speed=9"], 1, "takes no \"speed\""),
        (&["set", "policy=none", "downtime=9"], 1, "downtime: "),
        (&["set", "bandwidth=0MiB/s"], 1, "a rate of zero"),
    ] {
        let finished = demo.ctl.run(words)?;
        assert_eq!(finished.code(), code, "{finished:?}");
        assert!(finished.stderr.contains(reason), "{finished:?}");
    }
    assert_eq!(demo.ctl.status()?["settings"], before);
    let text = demo.ctl.run(&["status"])?.stdout;
    assert!(
        text.contains("policy predictive, downtime 50 ms, deadline none"),
        "{text}"
    );
    demo.ctl.run(&["cancel"])?;
    assert_eq!(demo.wait()?.code(), 3);
    bed.finish();
    Ok(())
}

/// A QEMU guest that writes whole pages as fast as it can: more than 100 Mbit/s carry, also of one
/// that gets a twentieth of a processor.
fn busy() -> Workload {
    Workload {
        memory_mib: 160,
        fill_bytes: 24 * MIB,
        rate_bytes_per_s: u64::MAX,
        width_bytes: 4096,
        ..Workload::default()
    }
}

#[test]
fn a_cancelled_qemu_guest_is_free_again() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let machine = programs.wrap(Qemu::builder(&bed, &images).workload(&busy()));
    let (source, target) = machine.start_pair()?;
    source.wait_ready()?;
    source.wait_ticks(3)?;
    let (receive, uri) = programs.receive(&bed, &target)?;
    let socket = bed.runtime_dir().join("steer");
    let control = format!("--control={}", socket.display());
    // Not packed, nor as deltas: what a starved guest writes might do without a throttle then.
    let options = [
        "--policy=classic",
        "--bandwidth=100Mbit/s",
        "--compress=none",
        &control,
    ];
    let send = programs.send(&bed, &source, &uri, &options)?;
    let ctl = Ctl::new(&bed, socket);
    ctl.wait_for_socket(&send)?;
    ctl.wait("throttled", throttled)?;
    let pid = source.qemu_pid()?;
    assert!(process::is_tracked(pid)?);
    assert_eq!(ctl.run(&["cancel"])?.code(), 0);
    let sent = send.wait()?;
    assert_eq!(sent.code(), 3, "{sent:?}");
    let report = sent.json()?;
    check_failed(&report, "cancelled");
    let freed_ms = number(&report, "/guest_freed_after_ms");
    println!("measured: throttle released and tracking disarmed {freed_ms} ms after the request");
    assert!(freed_ms < 10_000.0, "{report}");
    assert!(!process::is_tracked(pid)?);
    assert_eq!(source.run_state()?, "running");
    source.wait_ticks(3)?;
    assert_eq!(source.verify()?.bad, 0);
    let received = receive.wait()?;
    assert_eq!(received.code(), 1, "{received:?}");
    assert!(received.stderr.contains("cancelled"), "{received:?}");
    drop((source, target));
    bed.finish();
    Ok(())
}
