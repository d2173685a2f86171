//! The hand-over between two real QEMUs, broken at every step: the guest goes on as before.

#![cfg(target_os = "linux")]

mod host;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use host::handover::{
    Halfway, assert_runs_as, assert_unharmed, halfway, hand_over, prepared, switch, verdict,
};
use host::{LIMIT, TestQemu, has_qemu, settings, state};
use pagelift_control::driver::qemu::relay::downstream;
use pagelift_control::driver::qemu::return_path::Shut;
use pagelift_control::driver::qemu::{CommitError, QemuMigrationError};

#[test]
fn paused_guest_stays_paused_after_cancel() {
    if !has_qemu() {
        return;
    }
    let source = TestQemu::start(&[]);
    source
        .second()
        .execute("stop", serde_json::Value::Null)
        .unwrap();
    let target = TestQemu::start_target(&[]);
    halfway(&source, &target).paused.cancel().unwrap();
    assert_eq!(state(&source), ("paused".into(), "cancelled".into()));
}

#[test]
fn guest_paused_while_its_memory_was_copied() {
    if !has_qemu() {
        return;
    }
    let source = TestQemu::start(&[]);
    let prepared = prepared(&source);
    source
        .second()
        .execute("stop", serde_json::Value::Null)
        .unwrap();
    let (switching, stream) = prepared.begin_switchover().unwrap();
    let drained = std::thread::spawn(move || downstream(stream, std::io::sink()));
    assert!(!switching.was_running());
    let paused = switching.wait_paused(LIMIT).unwrap();
    paused.cancel().unwrap();
    assert_eq!(state(&source).0, "paused");
    drained.join().unwrap().unwrap();
}

/// QEMU writes the state of its devices with its big lock held: while nobody reads it, its monitor
/// is silent.
#[test]
fn cancelled_while_nobody_reads_the_device_state() {
    if !has_qemu() {
        return;
    }
    // Their state is more than the stream holds.
    let source = TestQemu::start(&["-smp", "240"]);
    let before = settings(&source);
    let (switching, mut stream, _) = switch(&source);
    let is_paused = Arc::new(AtomicBool::new(false));
    let reader = {
        let is_paused = Arc::clone(&is_paused);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !is_paused.load(Ordering::Acquire) && stream.read(&mut buffer).unwrap() > 0 {}
            stream
        })
    };
    let paused = switching.wait_paused(LIMIT).unwrap();
    is_paused.store(true, Ordering::Release);
    let handing = paused.continue_device_state().unwrap();
    let unread = reader.join().unwrap();
    // Time for QEMU to fill the stream. On a machine where it is not enough, this proves less.
    std::thread::sleep(Duration::from_millis(300));
    handing.cancel().unwrap();
    drop(unread);
    assert_runs_as(&source, &before);
}

#[test]
fn cancelled_in_every_phase() {
    if !has_qemu() {
        return;
    }
    let source = TestQemu::start(&[]);
    let before = settings(&source);
    let prepared = prepared(&source);
    assert_eq!(settings(&source), before);
    prepared.cancel().unwrap();
    assert_runs_as(&source, &before);

    let (switching, _stream, _) = switch(&source);
    switching.cancel().unwrap();
    assert_runs_as(&source, &before);

    let target = TestQemu::start_target(&[]);
    let Halfway {
        paused, loading, ..
    } = halfway(&source, &target);
    assert_eq!(state(&source).0, "finish-migrate");
    paused.cancel().unwrap();
    assert_runs_as(&source, &before);
    let error = loading.wait_loaded(LIMIT).unwrap_err();
    assert!(matches!(error, QemuMigrationError::Ended { .. }), "{error}");

    let mut target = TestQemu::start_target(&[]);
    let (handing, loading, shut, _) = verdict(halfway(&source, &target));
    assert_eq!(shut, Some(Shut { error: 0 }));
    handing.cancel().unwrap();
    assert_eq!(state(&source).0, "running");
    loading.wait_loaded(LIMIT).unwrap().abandon().unwrap();
    target.wait_gone();
    assert_unharmed(&source, &before);
}

#[test]
fn dropped_in_every_phase() {
    if !has_qemu() {
        return;
    }
    let source = TestQemu::start(&[]);
    let before = settings(&source);
    drop(prepared(&source));
    assert_runs_as(&source, &before);
    drop(switch(&source));
    assert_runs_as(&source, &before);
    let target = TestQemu::start_target(&[]);
    drop(halfway(&source, &target));
    assert_runs_as(&source, &before);
    let target = TestQemu::start_target(&[]);
    drop(verdict(halfway(&source, &target)));
    assert_eq!(state(&target).0, "paused", "what was loaded does not run");
    drop(target);
    assert_unharmed(&source, &before);
}

#[test]
fn target_dies_in_every_phase() {
    if !has_qemu() {
        return;
    }
    let source = TestQemu::start(&[]);
    let before = settings(&source);

    // While the guest is stopped: device state finds nobody.
    let mut target = TestQemu::start_target(&[]);
    let Halfway {
        paused,
        was_running: _,
        loading,
        relay,
        ..
    } = halfway(&source, &target);
    target.kill();
    assert!(matches!(loading.wait_loaded(LIMIT), Err(QemuMigrationError::Qmp(e)) if e.is_lost()));
    let handing = paused.continue_device_state().unwrap();
    assert_eq!(relay.verdict.join().unwrap(), None);
    handing.cancel().unwrap();
    assert_eq!(state(&source).0, "running");

    // After its verdict, before the commit.
    let mut target = TestQemu::start_target(&[]);
    let (handing, loading, shut, _) = verdict(halfway(&source, &target));
    assert_eq!(shut, Some(Shut { error: 0 }));
    target.kill();
    // Whether the target has still said that it is loaded depends on when it died.
    let error = match loading.wait_loaded(LIMIT) {
        Ok(loaded) => loaded.run(false).unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, QemuMigrationError::Qmp(e) if e.is_lost()));
    handing.cancel().unwrap();
    assert_unharmed(&source, &before);
}

#[test]
fn target_that_cannot_load_says_why() {
    if !has_qemu() {
        return;
    }
    let source = TestQemu::start(&[]);
    let before = settings(&source);
    let mut target = TestQemu::start_target(&[]);
    let Halfway {
        paused,
        was_running: _,
        loading,
        relay,
        ..
    } = halfway(&source, &target);
    // RAM is missing: kvm-tpr-opt looks into it and fails.
    let handing = paused.continue_device_state().unwrap();
    // What it says on the return path is no proof: it may be 0. Its monitor knows better.
    relay.verdict.join().unwrap().unwrap();
    let error = loading.wait_loaded(LIMIT).unwrap_err().to_string();
    assert!(error.contains("load of migration failed"), "{error}");
    target.wait_gone();
    handing.cancel().unwrap();
    assert_unharmed(&source, &before);
}

#[test]
fn source_dies_before_commit() {
    if !has_qemu() {
        return;
    }
    let (mut source, target) = (TestQemu::start(&[]), TestQemu::start_target(&[]));
    let (handing, loading, ..) = verdict(halfway(&source, &target));
    let loaded = loading.wait_loaded(LIMIT).unwrap();
    source.kill();
    match handing.commit().unwrap_err() {
        CommitError::Kept(failure) => assert!(failure.undone.is_err()),
        CommitError::Unknown(cause) => panic!("nothing was sent: {cause}"),
    }
    assert_eq!(state(&target).0, "paused");
    loaded.abandon().unwrap();
}

#[test]
fn the_rollback_script_brings_the_guest_back() {
    if !has_qemu() {
        return;
    }
    let source = TestQemu::start(&[]);
    let before = settings(&source);
    let mut prepared = prepared(&source);
    // While RAM is sent there is nothing to undo: a migration that runs is another's.
    assert_eq!(prepared.rollback_script(), []);
    assert_eq!(settings(&source), before);
    prepared.arm().unwrap();
    let script = prepared.rollback_script();
    assert_eq!(settings(&source), before);
    let execute = || {
        let qmp = source.second();
        for step in &script {
            let mut line: serde_json::Value = serde_json::from_str(&step.command()).unwrap();
            let command = line["execute"].as_str().unwrap().to_owned();
            let arguments = line["arguments"].take();
            // Capabilities may be refused for a moment; the guest does not depend on them.
            if let Err(error) = qmp.execute(&command, arguments) {
                assert_eq!(command, "migrate-set-capabilities", "{error}");
            }
        }
    };
    drop(prepared);

    // The engine's process is dead in all of these: nothing of it is dropped.
    let (switching, stream, _) = switch(&source);
    let paused = switching.wait_paused(LIMIT);
    drop(stream);
    assert_eq!(state(&source).0, "finish-migrate");
    execute();
    wait_running(&source);
    std::mem::forget(paused);

    let restart = TestQemu::start_target(&[]);
    // QEMU still holds the other monitor's connection of the forgotten one.
    let source = TestQemu::start(&[]);
    let (handing, loading, ..) = verdict(halfway(&source, &restart));
    std::mem::forget((handing, loading));
    cancel_from_aside(&source);
    wait_running(&source);

    // After the commit it does nothing.
    let (source, target) = (TestQemu::start(&[]), TestQemu::start_target(&[]));
    hand_over(&source, &target, false).finish().unwrap();
    cancel_from_aside(&source);
    assert_eq!(state(&source), ("postmigrate".into(), "completed".into()));
    assert_eq!(settings(&source), before);
}

fn cancel_from_aside(source: &TestQemu) {
    let qmp = source.second();
    qmp.execute("migrate_cancel", serde_json::Value::Null)
        .unwrap();
}

fn wait_running(source: &TestQemu) {
    let deadline = std::time::Instant::now() + LIMIT;
    while state(source).0 != "running" {
        assert!(
            std::time::Instant::now() < deadline,
            "the guest does not come back"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
