//! libvirt's Python binding as a client: what programs that manage clouds use.

mod support;

use std::path::Path;
use std::process::Command;

use pagelift_tests::{Skip, require};
use support::{Daemon, guest_xml, qemu};

const PYTHON: &str = "/usr/bin/python3";

fn binding() -> Result<(), Skip> {
    let import = Command::new(PYTHON).args(["-c", "import libvirt"]).output();
    match import {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Skip(
            "no binding for Python; apt-get install python3-libvirt".into(),
        )),
    }
}

#[test]
fn a_whole_life_by_python() {
    require!(binding());
    require!(qemu());
    let daemon = Daemon::start("");
    let description = daemon.file("g1.xml", &guest_xml("g1", 1));
    let output = Command::new("timeout")
        .args(["120", PYTHON])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/life.py"))
        .args([daemon.socket(), daemon.read_only_socket()])
        .arg(description)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}{complained}\n{}",
        daemon.log()
    );
    assert_eq!(said.trim(), "as expected");
}
