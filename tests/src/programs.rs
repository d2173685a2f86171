//! Where cargo has put what was built: beside the test that runs.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The directory of the profile that this test was built in, such as `target/debug`.
fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.parent().context("an executable is in a directory")?;
    // Tests live in `deps` and examples in `examples`, below the programs.
    let nested = ["deps", "examples"].iter().any(|name| dir.ends_with(name));
    Ok(if nested {
        dir.parent().unwrap_or(dir)
    } else {
        dir
    }
    .to_owned())
}

fn built(file: &str) -> Result<PathBuf> {
    let path = profile_dir()?.join(file);
    if !path.is_file() {
        bail!(
            "{} is not built; run `cargo build --workspace` first, or tests/run",
            path.display()
        );
    }
    Ok(path)
}

/// The program `name` (`pagelift`, `pagelift-send`, ...) built in the same profile.
pub fn program(name: &str) -> Result<PathBuf> {
    built(name)
}

/// The library that `pagelift run` loads into QEMU.
pub fn agent_library() -> Result<PathBuf> {
    built("libpagelift_agent.so")
}
