//! Disks that bypass the page cache: made to go through it for a migration, and past it again on
//! every way that leaves the guest here.

mod host;

use host::{TestQemu, has_qemu};
use pagelift_control::driver::qemu::{SourceQemu, preflight};
use pagelift_control::qmp::Qmp;
use serde_json::{Value, json};

/// A guest with a disk of each kind that bypasses the page cache, and one that does not. `None` if
/// the file system of temporary files has no O_DIRECT.
fn guest_with_disks(disk: &tempfile::NamedTempFile) -> Option<TestQemu> {
    disk.as_file().set_len(1 << 20).unwrap();
    let path = disk.path().display();
    if rustix::fs::open(
        disk.path(),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECT,
        rustix::fs::Mode::empty(),
    )
    .is_err()
    {
        eprintln!("SKIP: needs temporary files on a file system with O_DIRECT; set TMPDIR");
        return None;
    }
    let named = format!(
        "driver=file,filename={path},node-name=named,cache.direct=on,read-only=on,discard=unmap,\
         aio=native"
    );
    let unnamed = format!("file={path},format=raw,cache=none,if=none,id=old,read-only=on");
    let buffered = format!("driver=file,filename={path},node-name=buffered,read-only=on");
    Some(TestQemu::start(&[
        "-blockdev",
        &named,
        "-drive",
        &unnamed,
        "-blockdev",
        &buffered,
    ]))
}

/// Whether each file bypasses the page cache, by the name of its node.
fn directs(qmp: &Qmp) -> Vec<(String, bool)> {
    let nodes = qmp
        .execute("query-named-block-nodes", json!({ "flat": true }))
        .unwrap();
    let files = nodes.as_array().unwrap().iter();
    let mut files: Vec<(String, bool)> = files
        .filter(|node| node["drv"] == "file")
        .map(|node| {
            let name = node["node-name"].as_str().unwrap();
            (name.to_owned(), node["cache"]["direct"] == true)
        })
        .collect();
    files.sort();
    files
}

fn count_direct(qmp: &Qmp) -> usize {
    directs(qmp).iter().filter(|(_, direct)| *direct).count()
}

#[test]
fn disks_go_through_the_page_cache_until_the_migration_is_cancelled() {
    if !has_qemu() {
        return;
    }
    let disk = tempfile::NamedTempFile::new().unwrap();
    let Some(qemu) = guest_with_disks(&disk) else {
        return;
    };
    let second = qemu.second();
    let before = directs(&second);
    assert_eq!(count_direct(&second), 2);

    let source = SourceQemu::connect(&qemu.address()).unwrap();
    let refusals = |buffer| preflight::source(source.qmp(), source.guest(), buffer).unwrap();
    assert_eq!(refusals(false).len(), 2);
    assert_eq!(refusals(true), []);
    let planned = source.plan(true).unwrap();
    assert_eq!(directs(&second), before, "a plan changes nothing");
    let prepared = planned.prepare().unwrap();
    assert_eq!(count_direct(&second), 0);
    prepared.cancel().unwrap();
    assert_eq!(directs(&second), before);

    // A source that is given up without a word.
    let source = SourceQemu::connect(&qemu.address()).unwrap();
    let prepared = source.plan(true).unwrap().prepare().unwrap();
    assert_eq!(count_direct(&second), 0);
    drop(prepared);
    assert_eq!(directs(&second), before);
}

/// Capabilities and parameters of QEMU's migration.
fn settings(qmp: &Qmp) -> [Value; 2] {
    ["query-migrate-capabilities", "query-migrate-parameters"]
        .map(|query| qmp.execute(query, Value::Null).unwrap())
}

/// The rollback script is known before anything is changed: whenever pagelift dies, it undoes what is done.
#[test]
fn the_rollback_script_puts_disks_back() {
    if !has_qemu() {
        return;
    }
    let disk = tempfile::NamedTempFile::new().unwrap();
    let Some(qemu) = guest_with_disks(&disk) else {
        return;
    };
    let second = qemu.second();
    let before = directs(&second);
    let settings_before = settings(&second);
    let source = SourceQemu::connect(&qemu.address()).unwrap();
    let planned = source.plan(true).unwrap();
    let script = planned.rollback_script();
    let carry_out = || {
        for line in &script {
            let line: Value = serde_json::from_str(&line.command()).unwrap();
            let command = line["execute"].as_str().unwrap();
            // Some lines are for a migration that has begun; QEMU may refuse them.
            let _refused_or_done = second.execute(command, line["arguments"].clone());
        }
        assert_eq!(directs(&second), before);
        assert_eq!(settings(&second), settings_before);
    };
    carry_out();
    let prepared = planned.prepare().unwrap();
    assert_eq!(prepared.rollback_script(), script);
    assert_eq!(count_direct(&second), 0);
    carry_out();
    prepared.cancel().unwrap();
    assert_eq!(directs(&second), before);
}
