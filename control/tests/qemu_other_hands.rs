//! Other hands on the same QEMU while a guest of it is moved, with real QEMUs: their work stays
//! whole, and ours ends with its name.

#![cfg(target_os = "linux")]

mod host;

use std::os::unix::fs::FileExt;
use std::process::Command;

use host::handover::{assert_runs_as, halfway, prepared};
use host::{LIMIT, RAM_BYTES, TestQemu, has_qemu, settings, state};
use pagelift_control::driver::qemu::other_hands::{self, Devices};
use pagelift_control::driver::qemu::{Guest, PausedSource, QemuMigrationError, preflight};
use pagelift_control::qmp::Qmp;
use serde_json::{Value, json};

/// Waits until `done` says so.
fn wait(what: &str, done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + LIMIT;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// An empty image of 4 MiB.
fn image(folder: &tempfile::TempDir, name: &str, format: &str) -> String {
    let path = folder.path().join(name).display().to_string();
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", format, &path, "4M"])
        .status();
    assert!(made.is_ok_and(|status| status.success()), "qemu-img");
    path
}

/// All of a guest's RAM.
fn ram(qemu: &TestQemu) -> Vec<u8> {
    let file = std::fs::File::open(qemu.ram_file()).unwrap();
    let mut content = vec![0; usize::try_from(RAM_BYTES).unwrap()];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

/// A save to a file, as `virsh save` does it, while our RAM is sent.
#[test]
fn a_save_of_others_is_whole() {
    if !has_qemu() {
        return;
    }
    let source = TestQemu::start(&[]);
    let ours = prepared(&source);
    let devices = Devices::list(&source.second()).unwrap();
    assert_eq!(
        other_hands::found(&source.second(), &devices).unwrap(),
        None
    );
    let folder = tempfile::tempdir().unwrap();
    let uri = format!("file:{}/saved", folder.path().display());
    source
        .second()
        .execute("migrate", json!({ "uri": uri }))
        .unwrap();
    wait("the save", || state(&source).1 == "completed");
    let words = other_hands::found(&source.second(), &devices)
        .unwrap()
        .unwrap();
    assert!(words.contains("taken it away"), "{words}");
    // Ours lets go, and takes nothing with it.
    ours.cancel().unwrap();
    assert_eq!(state(&source), ("postmigrate".into(), "completed".into()));

    let target = TestQemu::start_target(&["-S"]);
    let arguments = json!({ "uri": uri, "exit-on-error": false });
    target
        .second()
        .execute("migrate-incoming", arguments)
        .unwrap();
    wait("the load", || state(&target).0 == "paused");
    assert!(ram(&target) == ram(&source), "RAM differs");
}

/// A migration of others that still runs when ours would begin.
#[test]
fn a_migration_of_others_goes_on() {
    if !has_qemu() {
        return;
    }
    let source = TestQemu::start(&[]);
    let before = settings(&source);
    let mut ours = prepared(&source);
    let (_unread, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    source
        .second()
        .getfd("stuck", std::os::fd::AsFd::as_fd(&theirs))
        .unwrap();
    source
        .second()
        .execute("migrate", json!({ "uri": "fd:stuck" }))
        .unwrap();
    let devices = Devices::list(&source.second()).unwrap();
    let found = other_hands::found(&source.second(), &devices);
    let words = found.unwrap().unwrap();
    assert!(
        words.contains("somebody else has begun a migration"),
        "{words}"
    );
    ours.arm().unwrap();
    let failure = ours.begin_switchover().unwrap_err();
    assert!(failure.to_string().contains("migration"), "{failure}");
    assert!(failure.undone.is_ok());
    assert_eq!(state(&source), ("running".into(), "active".into()));
    assert_eq!(settings(&source), before);
    source
        .second()
        .execute("migrate_cancel", Value::Null)
        .unwrap();
    wait("the cancellation", || state(&source).1 == "cancelled");
    assert_runs_as(&source, &before);
}

#[test]
fn a_snapshot_of_others_can_be_loaded() {
    if !has_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let drive = format!("file={},if=virtio,id=d0", image(&folder, "d0", "qcow2"));
    let source = TestQemu::start(&["-drive", &drive]);
    let ours = prepared(&source);
    source.second().execute("stop", Value::Null).unwrap();
    let saved = ram(&source);
    assert_eq!(source.second().human("savevm s").unwrap(), "");
    // What the snapshot does not hold would stay.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(source.ram_file())
        .unwrap();
    file.write_all_at(&[0xaa; 4096], 0x10_0000).unwrap();
    assert_eq!(source.second().human("loadvm s").unwrap(), "");
    assert!(ram(&source) == saved, "RAM differs");
    ours.cancel().unwrap();
}

/// A guest with a disk that a backup is made of, slowly.
fn with_backup(folder: &tempfile::TempDir) -> TestQemu {
    let node = |name: &str| {
        let path = image(folder, name, "raw");
        format!("driver=file,filename={path},node-name={name}")
    };
    TestQemu::start(&[
        "-blockdev",
        &node("d0"),
        "-blockdev",
        &node("copy"),
        "-device",
        "virtio-blk-pci,drive=d0",
    ])
}

fn begin_backup(qmp: &Qmp) {
    let backup = json!({ "job-id": "nightly", "device": "d0", "target": "copy", "sync": "full",
                         "speed": 1 });
    qmp.execute("blockdev-backup", backup).unwrap();
}

fn jobs(qmp: &Qmp) -> usize {
    let jobs = qmp.execute("query-block-jobs", Value::Null).unwrap();
    jobs.as_array().unwrap().len()
}

#[test]
fn a_block_job_is_named_before_and_at_the_stop() {
    if !has_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = with_backup(&folder);
    let before = settings(&source);
    let mut ours = prepared(&source);
    begin_backup(&source.second());
    let error = ours.arm().unwrap_err().to_string();
    assert!(
        error.starts_with("block job nightly (backup) runs"),
        "{error}"
    );
    ours.cancel().unwrap();
    let guest = Guest::inspect(&source.second()).unwrap();
    let refusals = preflight::source(&source.second(), &guest, false).unwrap();
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert!(
        refusals[0]
            .reason
            .starts_with("block job nightly (backup) runs")
    );
    assert_eq!(jobs(&source.second()), 1);
    assert_runs_as(&source, &before);
}

/// Waits until QEMU says that its migration has ended, and asserts how; the guest goes on.
fn assert_ends(source: &TestQemu, ended: impl Fn() -> Option<QemuMigrationError>, words: &str) {
    wait("the end is noticed", || ended().is_some());
    let error = ended().unwrap().to_string();
    assert!(error.contains(words), "{error}");
    assert_ne!(state(source).0, "postmigrate");
}

/// QEMU ends its migration by itself, and runs the guest, when it cannot give a disk up.
#[test]
fn a_block_job_that_begins_at_the_stop_ends_it() {
    if !has_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = with_backup(&folder);
    let before = settings(&source);
    let target = TestQemu::start_target(&[
        "-device",
        "virtio-blk-pci,drive=d0",
        "-blockdev",
        "null-co,node-name=d0,size=4194304",
    ]);
    let halfway = halfway(&source, &target);
    let paused: PausedSource = halfway.paused;
    assert!(paused.ended().is_none());
    begin_backup(&source.second());
    let handing = paused.continue_device_state().unwrap();
    assert_ends(
        &source,
        || handing.ended(),
        "block job nightly (backup) runs",
    );
    assert_eq!(state(&source).0, "running", "QEMU has let it go on");
    handing.cancel().unwrap();
    assert_eq!(jobs(&source.second()), 1);
    assert_runs_as(&source, &before);
}

#[test]
fn a_cancellation_by_others_ends_it() {
    if !has_qemu() {
        return;
    }
    let source = TestQemu::start(&[]);
    let before = settings(&source);
    let target = TestQemu::start_target(&[]);
    let paused = halfway(&source, &target).paused;
    source
        .second()
        .execute("migrate_cancel", Value::Null)
        .unwrap();
    assert_ends(&source, || paused.ended(), "somebody has cancelled it");
    paused.cancel().unwrap();
    assert_runs_as(&source, &before);
}

#[test]
fn a_device_that_comes_or_goes_is_named() {
    if !has_qemu() {
        return;
    }
    let source = TestQemu::start(&["-m", "64,slots=1,maxmem=1G"]);
    let devices = Devices::list(&source.second()).unwrap();
    let memory = json!({ "qom-type": "memory-backend-ram", "id": "m1", "size": 128 << 20 });
    source.second().execute("object-add", memory).unwrap();
    let dimm = json!({ "driver": "pc-dimm", "id": "dimm1", "memdev": "m1" });
    source.second().execute("device_add", dimm).unwrap();
    let words = other_hands::found(&source.second(), &devices)
        .unwrap()
        .unwrap();
    assert!(
        words.starts_with("device dimm1 (pc-dimm) was plugged in"),
        "{words}"
    );
}
