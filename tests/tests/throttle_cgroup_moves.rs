//! `pagelift-send --throttle-by cgroup`: quotas are in force while a busy guest moves, and as they
//! were afterwards, however it ends; what cannot be slowed alone is refused.
//!
//! The groups are made by the tests, where the machine lets them; a deadline that forces the move
//! bounds how long each takes.

use std::process::Stdio;

use anyhow::{Context, Result};
use pagelift_tests::contract::{check_completed, check_failed, number};
use pagelift_tests::{Bed, Cgroup, Images, Programs, Qemu, Ticks, Workload, guest_images, require};
use rustix::process::Signal;
use serde_json::json;

const MIB: u64 = 1 << 20;

/// Whole pages, far faster than the link: nobody moves it without a throttle, nor soon with one.
const OPTIONS: [&str; 7] = [
    "--throttle-by=cgroup",
    "--bandwidth=20MiB/s",
    "--compress=none",
    "--policy=classic",
    "--deadline=12s",
    "--at-deadline=force",
    "--verify",
];

fn busy(cpus: u32) -> Workload {
    Workload {
        cpus,
        threads: cpus,
        fill_bytes: 32 * MIB,
        rate_bytes_per_s: u64::MAX,
        width_bytes: 4096,
        ..Workload::default()
    }
}

/// Thread ids of the vCPUs, by index.
fn vcpus(qemu: &Qemu) -> Result<Vec<u32>> {
    let cpus = qemu.execute("query-cpus-fast", json!({}))?;
    let mut cpus: Vec<(u64, u32)> = cpus
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|cpu| {
            let tid = u32::try_from(cpu["thread-id"].as_u64()?).ok()?;
            Some((cpu["cpu-index"].as_u64()?, tid))
        })
        .collect();
    cpus.sort_unstable();
    Ok(cpus.into_iter().map(|(_, tid)| tid).collect())
}

/// Moves a guest whose vCPUs each have a group, or whose QEMU has one as a whole.
fn moves(images: &Images, bed: Bed, vm: Cgroup, each: bool) -> Result<()> {
    let programs = Programs::built()?;
    let workload = busy(2);
    let machine = programs.wrap(Qemu::builder(&bed, images).workload(&workload));
    // Before what is in them: they are dropped after it.
    let mut groups = Vec::new();
    let (source, target) = machine.start_pair()?;
    source.wait_ticks(5)?;
    vm.add_process(source.qemu_pid()?)?;
    if each {
        for (index, tid) in vcpus(&source)?.into_iter().enumerate() {
            let own = vm.for_threads(&format!("vcpu{index}"))?;
            own.add_thread(tid)?;
            groups.push(own);
        }
    }
    let path = vm.path().display().to_string();
    groups.push(vm);
    let limits = || groups.iter().map(Cgroup::limit).collect::<Result<Vec<_>>>();
    let before = limits()?;

    let (receive, uri) = programs.receive(&bed, &target)?;
    let send = programs.send(&bed, &source, &uri, &OPTIONS)?;
    let in_force = groups[0].wait_limit(&before[0], false)?;
    let (sent, received) = (send.wait()?, receive.wait()?);
    assert_eq!(
        (sent.code(), received.code()),
        (0, 0),
        "{sent:?} {received:?}"
    );
    assert_eq!(limits()?, before);
    let report = sent.json()?;
    check_completed(&report, workload.memory_mib * MIB);
    assert_eq!(report["throttle_by"], "cgroup");
    for vcpu in 0..2 {
        let most = number(&report, &format!("/vcpus/{vcpu}/throttle_pct_max"));
        assert!(most >= 20.0, "{report}");
    }
    let said = if each {
        format!("the quotas of {path}/vcpu0, {path}/vcpu1 (each vCPU by its own share)\n")
    } else {
        format!("the quotas of {path} (all vCPUs alike)\n")
    };
    assert!(sent.stderr.contains(&said), "{said}: {sent:?}");
    eprintln!(
        "in force: {in_force}; at most {} %, downtime {} ms: {}",
        report["throttle_pct_max"], report["blackout_ms"], report["blackout_parts"]
    );
    target.wait_ticks(5)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[source.log(), target.log()])?;
    drop((source, target));
    drop(groups);
    bed.finish();
    Ok(())
}

#[test]
fn a_guest_moves_under_quotas_of_each_vcpu() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let group = require!(Cgroup::new(&bed, "vm"));
    moves(&images, bed, group, true)
}

#[test]
fn a_guest_moves_under_the_quota_of_its_qemu() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let group = require!(Cgroup::new(&bed, "vm"));
    moves(&images, bed, group, false)
}

#[test]
fn a_sender_that_is_killed_leaves_the_quota_as_it_was() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let group = require!(Cgroup::new(&bed, "vm"));
    let programs = Programs::built()?;
    let workload = busy(1);
    let machine = programs.wrap(Qemu::builder(&bed, &images).workload(&workload));
    let (source, target) = machine.start_pair()?;
    source.wait_ticks(5)?;
    group.add_process(source.qemu_pid()?)?;
    let before = group.limit()?;
    let (receive, uri) = programs.receive(&bed, &target)?;
    let mut send = programs.send(&bed, &source, &uri, &OPTIONS)?;
    let in_force = group.wait_limit(&before, false)?;
    assert_eq!(send.ended()?, None);
    send.signal(Signal::KILL)?;
    group.wait_limit(&before, true)?;
    eprintln!("{in_force} is {before} again");
    drop((send, receive));
    assert_eq!(source.run_state()?, "running");
    source.wait_ticks(5)?;
    assert_eq!(source.verify()?.bad, 0);
    assert_eq!(group.limit()?, before);
    Ticks::check(&workload, &[source.log()])?;
    drop((source, target));
    drop(group);
    bed.finish();
    Ok(())
}

/// Nothing of the guest is changed, nor is anything sent.
#[test]
fn a_group_that_holds_others_too_is_refused() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let group = require!(Cgroup::new(&bed, "vm"));
    let programs = Programs::built()?;
    let machine = programs.wrap(Qemu::builder(&bed, &images).workload(&busy(1)));
    let source = machine.start("source")?;
    source.wait_ticks(1)?;
    let settings = || -> Result<_> {
        Ok([
            source.execute("query-migrate-capabilities", json!({}))?,
            source.execute("query-migrate-parameters", json!({}))?,
        ])
    };
    let (before, limit) = (settings()?, group.limit()?);
    let refused = || -> Result<String> {
        // Nobody listens there: it must not get so far.
        let sent = programs.send(&bed, &source, "tcp://127.0.0.1:1", &OPTIONS)?;
        let sent = sent.wait()?;
        assert_eq!(sent.code(), 1, "{sent:?}");
        let report = sent.json()?;
        let (_, message) = check_failed(&report, "failed");
        assert!(message.contains("throttle by the agent"), "{message}");
        Ok(message.to_owned())
    };
    // Wherever the tests run is no group of this QEMU's alone.
    eprintln!("refused: {}", refused()?);

    let qemu = source.qemu_pid()?;
    group.add_process(qemu)?;
    let mut command = bed.command("sleep");
    let mut other = command.arg("600").stdin(Stdio::null()).spawn()?;
    let added = group.add_process(other.id());
    let words = added.and_then(|()| refused());
    other.kill()?;
    other.wait()?;
    let words = words?;
    let path = group.path().display();
    for part in [
        format!("cgroup {path}: "),
        format!("thread {} in it is not of QEMU process {qemu}", other.id()),
    ] {
        assert!(words.contains(&part), "{words}");
    }
    assert_eq!((settings()?, group.limit()?), (before, limit));
    source.wait_ticks(3)?;
    drop(source);
    drop(group);
    bed.finish();
    Ok(())
}
