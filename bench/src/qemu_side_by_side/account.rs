//! CPU time of the processes of a move, and of the guest itself.

use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use pagelift_tests::{PATIENCE, Qemu, process};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// How long a guest is watched before it moves.
const WATCH: Duration = Duration::from_secs(1);

/// CPU seconds that a guest uses by itself, per second in which it runs.
///
/// Under emulation that is most of what it costs: nothing that a migration does.
pub(crate) fn burn_rate(qemu: &Qemu) -> f64 {
    let (cpu, start) = (qemu.cpu_seconds(), Instant::now());
    sleep(WATCH);
    (qemu.cpu_seconds() - cpu) / start.elapsed().as_secs_f64()
}

/// Waits for the end of a program that succeeds, and gives its CPU seconds.
pub(crate) fn finish(child: &mut Child, name: &str) -> Result<f64> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else {
        bail!("{name} has no process number")
    };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let deadline = Instant::now() + PATIENCE;
    while waitid(WaitId::Pid(pid), options)?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            bail!("{name} does not end");
        }
        sleep(Duration::from_millis(2));
    }
    // It has ended and was not waited for: its line of the process table is still there.
    let cpu_s = process::cpu_seconds(child.id());
    let status = child.wait()?;
    if !status.success() {
        bail!("{name} failed: {status}");
    }
    Ok(cpu_s)
}
