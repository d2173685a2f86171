//! What the kernel's vhost writes into guest memory is tracked: shown in a guest that has vhost.

use anyhow::Result;
use pagelift_tests::{Bed, Lab, require};

#[test]
fn what_vhost_writes_is_reported() -> Result<()> {
    let bed = Bed::new()?;
    // PAGEMAP_SCAN came with Linux 6.7.
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let kernel = match codename {
        Some("bookworm") => "linux-image-amd64/bookworm-backports",
        _ => "linux-image-amd64",
    };
    let lab = Lab::new(&["vhost"]).kernel(kernel).memory_mib(512);
    let lab = lab.file(env!("CARGO_BIN_EXE_vhost_writes"));
    // Also as a user without privileges, whose userfaultfd hears of faults in user mode only.
    let script = "
        chmod 666 /dev/vhost-vsock
        vhost_writes vsock net || exit 1
        su -s /bin/sh nobody -c 'vhost_writes vsock'";
    let run = require!(lab.run(&bed, script)?);
    assert_eq!(run.status, 0, "{}", run.output);
    for reported in [
        "vhost-vsock: three packets, each reported to user 0",
        "vhost-net: three packets, each reported to user 0",
        "vhost-vsock: three packets, each reported to user 65534",
    ] {
        assert!(run.output.contains(reported), "{}", run.output);
    }
    bed.finish();
    Ok(())
}
