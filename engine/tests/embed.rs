//! The example that docs/embedding.md walks through, run as a user would.

use std::path::PathBuf;
use std::process::Command;

/// The example's program: beside the tests, where cargo has put it, or built now.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let program = profile.join("examples/embed");
    if !program.exists() {
        let cargo = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "pagelift-engine"])
            .args(["--example", "embed"])
            .status()
            .unwrap();
        assert!(cargo.success());
    }
    program
}

#[test]
fn a_guest_moves_between_two_processes() {
    let ran = Command::new("timeout")
        .arg("60")
        .arg(program())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{ran:?}");
    assert!(said.contains("left: DowntimeParts"), "{said}");
    assert!(said.contains("arrived: "), "{said}");
    assert!(said.contains("source: exit status: 0"), "{said}");
}
