//! The process table: who descends from whom, CPU time, and the mark that a test leaves on all
//! the processes it starts.
//!
//! Read from /proc (proc_pid_stat(5), proc_pid_environ(5)). Processes come and go while it is
//! read: what has gone is left out.

use core::time::Duration;
use std::fs;
use std::io;
use std::thread::sleep;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

/// The environment variable that holds the [tag](crate::Bed::tag) of the test that started a
/// process, inherited by all that it starts in turn.
pub const MARK: &str = "PAGELIFT_TEST_BED";

/// One line of the process table.
struct Stat {
    parent: u32,
    /// One letter, such as `T` for stopped by a signal and `Z` for ended.
    state: char,
    /// User and system time, of the process and of children it has waited for.
    cpu_ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may itself hold spaces and parentheses.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // `rest` begins with field 3 (state); utime is field 14.
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        state: fields.first()?.chars().next()?,
        cpu_ticks: number(11)? + number(12)? + number(13)? + number(14)?,
    })
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// `root` and every process below it, parents before children.
pub fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = all()
        .filter_map(|pid| Some((pid, stat(pid)?.parent)))
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while next < tree.len() {
        let parent = tree[next];
        tree.extend(
            parents
                .iter()
                .filter(|(_, p)| *p == parent)
                .map(|(pid, _)| pid),
        );
        next += 1;
    }
    tree
}

/// CPU seconds, user and system, used so far by `root` and all processes below it.
///
/// To the tick of the kernel's accounting, commonly 10 ms.
pub fn cpu_seconds(root: u32) -> f64 {
    let ticks: u64 = tree(root)
        .into_iter()
        .filter_map(|pid| Some(stat(pid)?.cpu_ticks))
        .sum();
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 ticks")]
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    seconds
}

/// The live processes whose environment carries the mark `tag`. Zombies are not alive.
pub fn marked(tag: &str) -> Vec<u32> {
    let mark = format!("{MARK}={tag}");
    all()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                environment
                    .split(|byte| *byte == 0)
                    .any(|pair| pair == mark.as_bytes())
            })
        })
        .collect()
}

/// Whether the process exists and has not ended.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z')
}

/// Whether a signal (SIGSTOP) has stopped the process.
pub fn is_stopped(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state == 'T')
}

/// Whether any memory of the process is registered with a userfaultfd: flags `um`, `uw` and `ui`
/// of proc_pid_smaps(5).
///
/// # Errors
/// When there is no such process.
pub fn is_tracked(pid: u32) -> io::Result<bool> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut flags = text
        .lines()
        .filter_map(|line| line.strip_prefix("VmFlags:"))
        .flat_map(str::split_whitespace);
    Ok(flags.any(|flag| matches!(flag, "um" | "uw" | "ui")))
}

/// What share of its time a thread sleeps, from 0 to 1, as seen during `window`. Its waits for a
/// processor do not count, so the load of the machine does not either.
///
/// # Errors
/// When there is no such thread, or the kernel keeps no account of threads.
pub fn slept_share(pid: u32, tid: u32, window: Duration) -> io::Result<f64> {
    // Time on a processor and time in its queue, in ns (Documentation/scheduler/sched-stats.rst).
    let account = || -> io::Result<(Duration, Duration)> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat"))?;
        let mut numbers = text.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(ran)), Some(Ok(waited))) => {
                Ok((Duration::from_nanos(ran), Duration::from_nanos(waited)))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    };
    let (start, (ran_before, waited_before)) = (Instant::now(), account()?);
    sleep(window);
    let (ran, waited) = account()?;
    let (ran, waited) = (ran - ran_before, waited - waited_before);
    let slept = start.elapsed().saturating_sub(ran + waited);
    Ok(slept.as_secs_f64() / (slept + ran).as_secs_f64().max(1e-9))
}

/// The command name of a process, at most 15 bytes (proc_pid_comm(5)).
pub fn name(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// Sends SIGKILL to one process; that it is gone already is no error.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// Sends a signal to one process; that it is gone already is no error.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // The only failures are "no such process" and "not yours"; neither can be helped here,
        // and the leak check reports what survives.
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_grandchild_by_tree_and_by_mark() {
        let tag = format!("process-test-{}", std::process::id());
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 600 & wait"])
            .env(MARK, &tag)
            .spawn()
            .expect("sh runs");
        while tree(shell.id()).len() < 2 || marked(&tag).len() < 2 {
            sleep(Duration::from_millis(10));
        }
        let family = tree(shell.id());
        assert_eq!(family[0], shell.id());
        let mut by_mark = marked(&tag);
        by_mark.sort_unstable();
        let mut by_tree = family.clone();
        by_tree.sort_unstable();
        assert_eq!(by_tree, by_mark);
        assert!(cpu_seconds(shell.id()) >= 0.0);
        family.iter().copied().for_each(kill);
        shell.wait().expect("the shell was ours");
        while is_alive(family[1]) {
            sleep(Duration::from_millis(10));
        }
        assert!(marked(&tag).is_empty());
    }
}
