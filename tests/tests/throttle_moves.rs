//! The throttle as part of a migration: which vCPUs it falls on, and what is left of it when
//! `pagelift-send` is killed.
//!
//! What is asserted holds on a machine of any speed; what was measured is printed.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pagelift_tests::contract::{check_completed, number};
use pagelift_tests::{Bed, PATIENCE, Programs, Qemu, Ticks, Workload, guest_images, require};
use rustix::process::Signal;
use serde_json::json;

const MIB: u64 = 1 << 20;

/// Thread ids of the vCPUs, by index.
fn vcpus(qemu: &Qemu) -> Result<Vec<u64>> {
    let cpus = qemu.execute("query-cpus-fast", json!({}))?;
    let mut cpus: Vec<(u64, u64)> = cpus
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|cpu| Some((cpu["cpu-index"].as_u64()?, cpu["thread-id"].as_u64()?)))
        .collect();
    cpus.sort_unstable();
    Ok(cpus.into_iter().map(|(_, tid)| tid).collect())
}

/// Processor time of a thread.
fn ran(pid: u32, tid: u64) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat"))?;
    let ns = text.split(' ').next().context("a number")?.parse()?;
    Ok(Duration::from_nanos(ns))
}

#[test]
fn all_vcpus_are_throttled_by_one_share() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 384,
        cpus: 2,
        threads: 2,
        computing: 1,
        pinned: true,
        fill_bytes: 192 * MIB,
        rate_bytes_per_s: u64::MAX,
        width_bytes: 4096,
        ..Workload::default()
    };
    let machine = programs.wrap(Qemu::builder(&bed, &images).workload(&workload));
    let (source, target) = machine.start_pair()?;
    source.wait_ticks(5)?;
    let options = ["--bandwidth", "60MiB/s", "--downtime", "800ms"];
    let moved = programs.migrate(&bed, &source, &target, &options)?;
    target.wait_ticks(5)?;
    assert_eq!(target.verify()?.bad, 0);
    let logs = [source.log(), target.log()];
    Ticks::check(&workload, &logs)?;

    let report = moved.sent.json()?;
    check_completed(&report, workload.memory_mib * MIB);
    eprintln!("throttled: {}", report["vcpus"]);
    let each = |key: &str| [0, 1].map(|vcpu| number(&report, &format!("/vcpus/{vcpu}/{key}")));
    let (most, lost) = (each("throttle_pct_max"), each("throttle_lost_s"));
    // Equal bit by bit: it is the same sum.
    assert!(most[0] == most[1] && lost[0] == lost[1], "{report}");
    if lost[0] == 0.0 {
        eprintln!("SKIP: this machine emulates a writer that needs no throttle");
    }
    drop((source, target));
    bed.finish();
    Ok(())
}

#[test]
fn a_sender_that_is_killed_while_it_throttles_leaves_the_guest_at_full_speed() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        fill_bytes: 48 * MIB,
        rate_bytes_per_s: u64::MAX,
        width_bytes: 4096,
        ..Workload::default()
    };
    let machine = programs.wrap(Qemu::builder(&bed, &images).workload(&workload));
    let (source, target) = machine.start_pair()?;
    source.wait_ticks(5)?;
    let (pid, tid) = (source.qemu_pid()?, vcpus(&source)?[0]);

    let (receive, uri) = programs.receive(&bed, &target)?;
    // Whole pages, far faster than the link: nothing but the strongest throttle will do. A round
    // takes some 5 s, so that the guest has not moved before the kill.
    let options = ["--bandwidth", "10MiB/s", "--compress", "none"];
    let mut send = programs.send(&bed, &source, &uri, &options)?;
    send.wait_stderr(|text| text.contains("throttled to 9").then_some(()))?;
    let share = |time: Duration| -> Result<f64> {
        let (start, before) = (Instant::now(), ran(pid, tid)?);
        thread::sleep(time);
        let used = ran(pid, tid)?.saturating_sub(before);
        Ok(used.as_secs_f64() / start.elapsed().as_secs_f64())
    };
    let slow = share(Duration::from_millis(300))?;
    assert!(
        slow < 0.3,
        "throttled to 95 % or more, it ran {slow:.2} of the time"
    );
    send.signal(Signal::KILL)?;
    let killed = Instant::now();
    let free = loop {
        let free = share(Duration::from_millis(20))?;
        if free > 0.3 {
            break free;
        }
        assert!(
            killed.elapsed() < PATIENCE,
            "still throttled, or worse: it runs {free:.2} of the time, and its state is {:?}",
            source.run_state()?
        );
    };
    eprintln!(
        "ran {slow:.3} of the time while throttled, {free:.2} within {} ms of the kill",
        killed.elapsed().as_millis()
    );
    drop((send, receive));
    source.wait_ticks(5)?;
    assert_eq!(source.verify()?.bad, 0);
    Ticks::check(&workload, &[source.log()])?;
    drop((source, target));
    bed.finish();
    Ok(())
}
