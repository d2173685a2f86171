//! The threads of the guest's vCPUs, seen from outside: how long each has run, and how it was
//! throttled.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use pagelift_engine::converge::ThrottleShare;

/// How one vCPU was throttled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VcpuThrottled {
    /// The largest share of its time that it was kept from running.
    pub most: ThrottleShare,
    /// The integral of its share over time: what a vCPU that never halts has lost.
    pub lost: Duration,
}

/// The threads of a QEMU's vCPUs.
#[derive(Debug)]
pub(super) struct VcpuThreads {
    /// The `schedstat` of each thread, in the order of their index; none if they cannot be told
    /// apart: several vCPUs share a thread, or QEMU's pid namespace has other numbers for them.
    times: Option<Vec<File>>,
    /// Whether they can only be throttled together, as if they were one.
    together: bool,
    throttled: Vec<VcpuThrottled>,
    /// The shares in force, and since when; none: all run.
    shares: Vec<ThrottleShare>,
    since: Instant,
}

impl VcpuThreads {
    /// The vCPUs that run in `threads` of process `pid`, and whether they can only be throttled
    /// `together`.
    pub(super) fn new(pid: u32, threads: &[u32], together: bool) -> Self {
        Self {
            times: open_times(pid, threads),
            together,
            throttled: vec![VcpuThrottled::default(); threads.len()],
            shares: Vec::new(),
            since: Instant::now(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.throttled.len()
    }

    /// Processor time of each: the first number of `schedstat`, in nanoseconds (Linux,
    /// Documentation/scheduler/sched-stats.rst). A thread that runs just now is behind by up to
    /// a tick of the kernel. `None` if they cannot be told apart, or one is gone. Costs about a
    /// microsecond each.
    ///
    /// Of vCPUs that can only be throttled together it is their mean, as that of a single one: one
    /// quota for all bites when all of them together want more than it.
    pub(super) fn times(&self) -> Option<Vec<Duration>> {
        let time = |file: &File| {
            let mut text = [0; 64];
            let length = file.read_at(&mut text, 0).ok()?;
            let text = std::str::from_utf8(&text[..length]).ok()?;
            let ns = text.split(' ').next()?.parse().ok()?;
            Some(Duration::from_nanos(ns))
        };
        let times: Vec<Duration> = self
            .times
            .as_ref()?
            .iter()
            .map(time)
            .collect::<Option<_>>()?;
        if !self.together {
            return Some(times);
        }
        let count = u32::try_from(times.len()).ok().filter(|count| *count > 0)?;
        Some(vec![times.iter().sum::<Duration>() / count])
    }

    /// From `now` on each vCPU has its share of `shares`; none: all run.
    pub(super) fn set_shares(&mut self, shares: &[ThrottleShare], now: Instant) {
        self.throttled = self.throttled(now);
        for (throttled, share) in self.throttled.iter_mut().zip(shares) {
            throttled.most = throttled.most.max(*share);
        }
        self.shares = shares.to_vec();
        self.since = now;
    }

    /// How each was throttled up to `now`.
    pub(super) fn throttled(&self, now: Instant) -> Vec<VcpuThrottled> {
        let time = now.saturating_duration_since(self.since);
        let mut throttled = self.throttled.clone();
        for (throttled, share) in throttled.iter_mut().zip(&self.shares) {
            throttled.lost += time.mul_f64(share.as_fraction());
        }
        throttled
    }
}

fn open_times(pid: u32, threads: &[u32]) -> Option<Vec<File>> {
    let mut distinct = threads.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < threads.len() {
        return None;
    }
    let open = |tid: &u32| File::open(format!("/proc/{pid}/task/{tid}/schedstat")).ok();
    threads.iter().map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_over_time() {
        let mut vcpus = VcpuThreads::new(std::process::id(), &[1, 2], false);
        let begin = Instant::now();
        let after = |ms| begin + Duration::from_millis(ms);
        vcpus.set_shares(&[ThrottleShare::permille(500), ThrottleShare::NONE], begin);
        vcpus.set_shares(
            &[ThrottleShare::permille(250), ThrottleShare::permille(100)],
            after(1000),
        );
        vcpus.set_shares(&[], after(3000));
        let throttled = vcpus.throttled(after(9000));
        assert_eq!(throttled[0].most, ThrottleShare::permille(500));
        assert_eq!(throttled[0].lost, Duration::from_millis(1000));
        assert_eq!(throttled[1].most, ThrottleShare::permille(100));
        assert_eq!(throttled[1].lost, Duration::from_millis(200));
    }

    #[test]
    fn times_are_those_of_threads_that_can_be_told_apart() {
        let pid = std::process::id();
        let times = VcpuThreads::new(pid, &[pid], false)
            .times()
            .expect("the main thread");
        assert_eq!(times.len(), 1);
        assert!(times[0] > Duration::ZERO);
        assert_eq!(VcpuThreads::new(pid, &[pid, pid], false).times(), None);
        // Init belongs to another process.
        assert_eq!(
            VcpuThreads::new(pid, &[1], false).times().is_some(),
            pid == 1
        );
    }
    #[test]
    fn vcpus_that_are_throttled_together_count_as_their_mean() {
        let pid = std::process::id();
        let apart = VcpuThreads::new(pid, &[pid], false)
            .times()
            .expect("the main thread");
        let vcpus = VcpuThreads::new(pid, &[pid], true);
        let together = vcpus.times().expect("the main thread");
        assert_eq!(together.len(), 1);
        assert!(together[0] >= apart[0]);
        assert_eq!(vcpus.count(), 1);
        // A second thread that does nothing halves the mean.
        let (sender, receiver) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let idle = std::thread::spawn(move || {
            sender.send(rustix::thread::gettid()).unwrap();
            let _ = wait.recv();
        });
        let tid = receiver
            .recv()
            .unwrap()
            .as_raw_nonzero()
            .get()
            .unsigned_abs();
        let both = VcpuThreads::new(pid, &[pid, tid], true);
        let each = VcpuThreads::new(pid, &[pid, tid], false);
        let (low, mean, high) = (each.times(), both.times(), each.times());
        let half = |times: Option<Vec<Duration>>| times.unwrap().iter().sum::<Duration>() / 2;
        let mean = mean.unwrap();
        assert_eq!(mean.len(), 1);
        assert!(half(low) <= mean[0] && mean[0] <= half(high));
        assert_eq!(both.count(), 2);
        drop(done);
        idle.join().unwrap();
    }
}
