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
    let run = require!(lab.run(&bed, "vhost_writes")?);
    assert_eq!(run.status, 0, "{}", run.output);
    for device in ["vhost-vsock", "vhost-net"] {
        let line = format!("{device}: three packets, each reported");
        assert!(run.output.contains(&line), "{}", run.output);
    }
    bed.finish();
    Ok(())
}
