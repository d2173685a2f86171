//! The hypervisor on KVM in examples/hypervisor: its guest moves live, and proves its own memory.

#![allow(unsafe_code, reason = "a process is killed by its number")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use support::{Compiler, here};
use tempfile::TempDir;

/// What the program ends with where there is no KVM.
const NO_KVM: i32 = 77;

/// The hypervisor, built; None if there is no compiler.
fn built(sanitized: bool) -> Option<(TempDir, PathBuf)> {
    let compiler = Compiler::C.find()?;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("hypervisor");
    let sources = ["main.c", "vm.c"].map(|name| here("examples/hypervisor").join(name));
    match sanitized {
        true => compiler.checked_program("c11", &sources, &program),
        false => compiler.program("c11", &sources, &program),
    }
    Some((folder, program))
}

/// Moves a guest of `vcpus` vCPUs through `hops` processes, its writes tracked by `tracking`. None if there is no KVM or no compiler.
fn moved(vcpus: u32, hops: u32, tracking: &str, sanitized: bool) -> Option<()> {
    let (_folder, program) = built(sanitized)?;
    let mut run = Command::new("timeout");
    run.args(["--kill-after=5", "200"]).arg(program);
    let ran = run
        .args([vcpus, hops].map(|number| number.to_string()))
        .arg(tracking)
        .output()
        .unwrap();
    let (said, complained) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    if ran.status.code() == Some(NO_KVM) {
        println!("SKIP: {}", complained.trim());
        return None;
    }
    assert!(ran.status.success(), "{}: {said}{complained}", ran.status);
    assert!(
        said.starts_with(&format!("the guest is well: {vcpus} vCPUs")),
        "{said}"
    );
    assert_eq!(
        complained.matches("left after").count(),
        hops as usize,
        "{complained}"
    );
    // The steps of all vCPUs only grow: no vCPU began again, or stood still.
    let left = complained
        .lines()
        .filter_map(|line| line.strip_prefix("left after "));
    let steps = left.filter_map(|line| line.split(' ').next());
    let last = said.split(' ').nth(6);
    let steps: Vec<u64> = steps
        .chain(last)
        .map(|text| text.parse().unwrap())
        .collect();
    assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
    Some(())
}

#[test]
fn a_guest_of_one_vcpu_moves_ten_times() {
    moved(1, 10, "log", false);
}

#[test]
fn a_guest_of_four_vcpus_moves_five_times() {
    moved(4, 5, "log", false);
}

#[test]
fn a_guest_tracked_by_rings_moves_five_times() {
    moved(4, 5, "rings", false);
}

#[test]
fn the_sanitizers_find_nothing() {
    moved(2, 2, "log", true);
    moved(2, 2, "rings", true);
}

/// What the two processes of a move said, one of which was killed after `delay`.
fn killed(program: &Path, the_target: bool, delay: Duration) -> (Option<i32>, String) {
    let source = Command::new(program)
        .args(["2", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(delay);
    let source_pid = source.id().cast_signed();
    let victim = if the_target {
        let children = format!("/proc/{source_pid}/task/{source_pid}/children");
        let children = fs::read_to_string(children).unwrap_or_default();
        children.split(' ').next().and_then(|pid| pid.parse().ok())
    } else {
        Some(source_pid)
    };
    if let Some(pid) = victim {
        // SAFETY: a signal to the process that was started here, or to its child; neither was waited
        // for by then, unless the source has waited for its child and is about to end.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    // Until both have ended: they share the pipes.
    let output = source.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = said + &String::from_utf8_lossy(&output.stdout);
    (output.status.code(), said)
}

/// Moments at which one of the two processes is killed: from before the target listens to after the move.
const KILLS: u64 = 12;

/// Between two of them.
const APART: Duration = Duration::from_millis(23);

/// One of the two processes is killed at a time. No guest has two owners, and whoever has it in the
/// end, and was not killed, runs it well.
#[test]
fn whoever_is_killed_leaves_one_owner() {
    let Some((_folder, program)) = built(false) else {
        return;
    };
    if Command::new(&program)
        .args(["1", "0"])
        .output()
        .unwrap()
        .status
        .code()
        == Some(NO_KVM)
    {
        println!("SKIP: KVM cannot be used here");
        return;
    }
    let (mut stayed, mut left) = (0, 0);
    for moment in 0..KILLS {
        let the_target = moment % 2 == 0;
        let delay = Duration::from_millis(100) + APART * moment as u32;
        let (code, said) = killed(&program, the_target, delay);
        let says = |what: &str| said.lines().any(|line| line.starts_with(what));
        let (granted, stays) = (says("granted"), says("stays"));
        assert!(!(granted && stays), "two owners:\n{said}");
        assert!(!says("the guest has lost"), "{said}");
        if the_target {
            // The source lives, and knows where the guest is, or that it cannot know.
            assert!(stays || says("left") || says("not left"), "{said}");
            assert_eq!(stays, says("the guest is well") && !granted, "{said}");
            assert!(code.is_some(), "{said}");
        } else if granted {
            assert!(says("the guest is well"), "{said}");
        }
        stayed += u32::from(stays);
        left += u32::from(granted);
    }
    println!("{KILLS} kills: the guest stayed {stayed} times, and had been granted {left} times");
}
