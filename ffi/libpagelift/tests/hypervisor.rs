//! The hypervisor on KVM in examples/hypervisor: its guest moves live, and proves its own memory.

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::{Compiler, here};

/// What the program ends with where there is no KVM.
const NO_KVM: i32 = 77;

/// Moves a guest of `vcpus` vCPUs through `hops` processes. None if there is no KVM or no compiler.
fn moved(vcpus: u32, hops: u32, sanitized: bool) -> Option<()> {
    let compiler = Compiler::C.find()?;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("hypervisor");
    let sources = ["main.c", "vm.c"].map(|name| here("examples/hypervisor").join(name));
    let sources: Vec<PathBuf> = sources.into();
    match sanitized {
        true => compiler.checked_program("c11", &sources, &program),
        false => compiler.program("c11", &sources, &program),
    }
    let mut run = Command::new("timeout");
    run.args(["--kill-after=5", "200"]).arg(program);
    let ran = run
        .args([vcpus, hops].map(|number| number.to_string()))
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
    let steps = complained.lines().filter_map(|line| line.split(' ').nth(2));
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
    moved(1, 10, false);
}

#[test]
fn a_guest_of_four_vcpus_moves_five_times() {
    moved(4, 5, false);
}

#[test]
fn the_sanitizers_find_nothing() {
    moved(2, 2, true);
}
