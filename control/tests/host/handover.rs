//! A whole hand-over between two QEMUs, in the pieces that tests break it at.
//!
//! The engine's part is played by a plain copy of the RAM file while the guest is stopped.

use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use pagelift_control::driver::qemu::relay::{downstream, upstream};
use pagelift_control::driver::qemu::return_path::Shut;
use pagelift_control::driver::qemu::{
    CommittedSource, HandingOver, LoadingTarget, PausedSource, PreparedSource, RamBlock,
    SourceQemu, SwitchingSource, TargetQemu,
};

use super::{LIMIT, TestQemu, settings, state};

/// Both directions of QEMU's stream, each in a thread.
pub(crate) struct Relay {
    pub(crate) verdict: JoinHandle<Option<Shut>>,
    pub(crate) bytes: JoinHandle<std::io::Result<u64>>,
}

impl Relay {
    pub(crate) fn start(source: UnixStream, target: UnixStream) -> Self {
        let (from, to) = (source.try_clone().unwrap(), target.try_clone().unwrap());
        Self {
            verdict: std::thread::spawn(move || upstream(target, source).unwrap_or(None)),
            bytes: std::thread::spawn(move || {
                let bytes = downstream(from, &to);
                // The target's QEMU learns that nothing more will come.
                let _gone_already = to.shutdown(Shutdown::Write);
                bytes
            }),
        }
    }
}

/// A source whose guest is stopped, and a target that loads.
pub(crate) struct Halfway {
    pub(crate) paused: PausedSource,
    pub(crate) was_running: bool,
    pub(crate) loading: LoadingTarget,
    pub(crate) relay: Relay,
    pub(crate) source_ram: Vec<RamBlock>,
    pub(crate) target_ram: Vec<RamBlock>,
}

/// A source that is ready to begin, for which nothing but settings was changed.
pub(crate) fn prepared(source: &TestQemu) -> PreparedSource {
    let qemu = SourceQemu::connect(&source.address()).unwrap();
    qemu.plan(false).unwrap().prepare().unwrap()
}

pub(crate) fn switch(source: &TestQemu) -> (SwitchingSource, UnixStream, Vec<RamBlock>) {
    let qemu = SourceQemu::connect(&source.address()).unwrap();
    assert_eq!(qemu.guest().pid, source.pid());
    let ram = qemu.guest().open_ram().unwrap();
    let (switching, stream) = qemu
        .plan(false)
        .unwrap()
        .prepare()
        .unwrap()
        .begin_switchover()
        .unwrap();
    (switching, stream, ram)
}

pub(crate) fn halfway(source: &TestQemu, target: &TestQemu) -> Halfway {
    let qemu = TargetQemu::connect(&target.address()).unwrap();
    let target_ram = qemu.guest().open_ram().unwrap();
    let (loading, target_stream) = qemu.hold().unwrap().begin_incoming().unwrap();
    let (switching, source_stream, source_ram) = switch(source);
    let relay = Relay::start(source_stream, target_stream);
    let was_running = switching.was_running();
    let paused = switching.wait_paused(LIMIT).unwrap();
    Halfway {
        paused,
        was_running,
        loading,
        relay,
        source_ram,
        target_ram,
    }
}

pub(crate) fn copy_ram(from: &[RamBlock], to: &[RamBlock]) {
    assert_eq!(from.len(), to.len());
    for (from, to) in from.iter().zip(to) {
        assert_eq!((&from.name, from.bytes), (&to.name, to.bytes));
        let mut content = vec![0; usize::try_from(from.bytes).unwrap()];
        from.file
            .read_exact_at(&mut content, from.file_offset)
            .unwrap();
        assert!(
            content.iter().any(|byte| *byte != 0),
            "the firmware has run"
        );
        to.file.write_all_at(&content, to.file_offset).unwrap();
    }
}

/// All but the commit: device state is loaded, the verdict is here and not passed on.
pub(crate) fn verdict(halfway: Halfway) -> (HandingOver, LoadingTarget, Option<Shut>, Relay) {
    let Halfway {
        paused,
        was_running: _,
        loading,
        relay,
        source_ram,
        target_ram,
    } = halfway;
    copy_ram(&source_ram, &target_ram);
    let handing = paused.continue_device_state().unwrap();
    let Relay { verdict, bytes } = relay;
    let shut = verdict.join().unwrap();
    let relay = Relay {
        verdict: std::thread::spawn(|| None),
        bytes,
    };
    (handing, loading, shut, relay)
}

pub(crate) fn hand_over(
    source: &TestQemu,
    target: &TestQemu,
    stay_paused: bool,
) -> CommittedSource {
    let halfway = halfway(source, target);
    assert_eq!(halfway.was_running, !stay_paused);
    assert_eq!(halfway.paused.stopped_at().is_some(), !stay_paused);
    assert_eq!(state(source).1, "pre-switchover");
    let (handing, loading, shut, relay) = verdict(halfway);
    assert_eq!(shut, Some(Shut { error: 0 }));
    let loaded = loading.wait_loaded(LIMIT).unwrap();
    // Both have the guest, and neither runs it.
    assert_eq!(state(source), ("finish-migrate".into(), "device".into()));
    assert_eq!(state(target), ("paused".into(), "completed".into()));
    let over = handing.commit().unwrap();
    let running = loaded.run(stay_paused).unwrap();
    assert_eq!(running.resumed_at().is_some(), !stay_paused);
    running.finish().unwrap();
    assert!(
        relay.bytes.join().unwrap().unwrap() > 10_000,
        "device state passed"
    );
    over
}

/// The guest runs, and QEMU's settings are as they were `before`.
pub(crate) fn assert_runs_as(source: &TestQemu, before: &serde_json::Value) {
    assert_eq!(state(source).0, "running");
    assert_eq!(settings(source), *before);
}

/// The guest is as before, and a second try succeeds.
pub(crate) fn assert_unharmed(source: &TestQemu, before: &serde_json::Value) {
    assert_runs_as(source, before);
    let target = TestQemu::start_target(&[]);
    hand_over(source, &target, false).finish().unwrap();
    assert_eq!(state(source).0, "postmigrate");
    assert_eq!(state(&target).0, "running");
}
