//! The demo's guest: shared memory, and threads that write it as vCPUs would.
//!
//! Invariant: after [`Guest::stop`] no vCPU writes until [`Guest::run`]; a vCPU counts each write
//! after it is in memory, so the memory follows from the counts.

mod memory;

pub use memory::DemoMemory;

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::units::{PAGE_BYTES, Rate};

use super::pattern::Script;

/// Period of the throttle: a vCPU runs for a part of it, and is kept from running for the rest.
pub const THROTTLE_PERIOD: Duration = Duration::from_millis(10);

/// How long a vCPU runs between two looks at the time.
const QUANTUM: Duration = Duration::from_millis(1);

/// What the vCPUs share.
#[derive(Debug)]
struct Board {
    memory: Arc<DemoMemory>,
    script: Script,
    /// Pages each vCPU writes a second, at full speed.
    writes_per_s: f64,
    /// Writes each vCPU has done.
    counts: Vec<AtomicU64>,
    stop: AtomicBool,
    end: AtomicBool,
    /// Share of its time that each vCPU is kept from running, in permille.
    throttle: AtomicU16,
    parked: Mutex<u32>,
    changed: Condvar,
}

/// A guest whose vCPUs can be run and stopped. Stopped at first.
#[derive(Debug)]
pub struct Guest {
    board: Arc<Board>,
    threads: Vec<JoinHandle<()>>,
    ran: Duration,
    running_since: Option<Instant>,
}

impl Guest {
    /// A guest that goes on after `counts` writes of its vCPUs, and writes pages at `rate`.
    pub fn new(memory: Arc<DemoMemory>, script: Script, rate: Rate, counts: &[u64]) -> Self {
        let rate_each = rate.0 as f64 / PAGE_BYTES as f64 / f64::from(script.vcpus);
        let board = Arc::new(Board {
            memory,
            script,
            writes_per_s: rate_each,
            counts: counts.iter().map(|count| AtomicU64::new(*count)).collect(),
            stop: AtomicBool::new(true),
            end: AtomicBool::new(false),
            throttle: AtomicU16::new(0),
            parked: Mutex::new(0),
            changed: Condvar::new(),
        });
        let threads = (0..script.vcpus)
            .map(|vcpu| {
                let board = Arc::clone(&board);
                std::thread::spawn(move || board.run(vcpu))
            })
            .collect();
        let guest = Self {
            board,
            threads,
            ran: Duration::ZERO,
            running_since: None,
        };
        guest.wait_parked();
        guest
    }

    /// Lets the vCPUs run.
    pub fn run(&mut self) {
        self.running_since = Some(Instant::now());
        self.board.stop.store(false, Ordering::Release);
        self.wake();
    }

    /// Stops the vCPUs; when this returns none of them writes any more.
    pub fn stop(&mut self) {
        self.board.stop.store(true, Ordering::Release);
        self.wait_parked();
        self.ran += self
            .running_since
            .take()
            .map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// Keeps the vCPUs from running for a share of their time.
    pub fn throttle(&self, share: ThrottleShare) {
        self.board
            .throttle
            .store(share.as_permille(), Ordering::Release);
    }

    /// Writes each vCPU has done.
    pub fn counts(&self) -> Vec<u64> {
        self.board
            .counts
            .iter()
            .map(|count| count.load(Ordering::Acquire))
            .collect()
    }

    /// Time the vCPUs ran but did not work for, at their full rate.
    pub fn lost_time(&self, done: u64) -> Duration {
        let full = self.board.writes_per_s * f64::from(self.board.script.vcpus);
        let worked = Duration::from_secs_f64(done as f64 / full.max(1.0));
        self.ran.saturating_sub(worked)
    }

    fn wait_parked(&self) {
        let mut parked = self
            .board
            .parked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while *parked < self.board.script.vcpus {
            parked = self
                .board
                .changed
                .wait(parked)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wake(&self) {
        // Under the lock: a vCPU that has looked, and is about to wait, is waiting then.
        drop(
            self.board
                .parked
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.board.changed.notify_all();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.board.end.store(true, Ordering::Release);
        self.board.stop.store(true, Ordering::Release);
        self.wake();
        for thread in self.threads.drain(..) {
            // A vCPU that panicked has said so; the checks find what it did not write.
            let _ = thread.join();
        }
    }
}

impl Board {
    /// One vCPU: writes at its rate, in its own time, while the guest runs.
    fn run(&self, vcpu: u32) {
        let count = &self.counts[vcpu as usize];
        let epoch = Instant::now();
        while self.park() {
            let before = count.load(Ordering::Relaxed);
            let (mut ran, mut last) = (Duration::ZERO, Instant::now());
            while !self.stop.load(Ordering::Acquire) {
                if let Some(rest) = self.kept_from_running(epoch.elapsed()) {
                    std::thread::sleep(rest);
                    last = Instant::now();
                    continue;
                }
                let now = Instant::now();
                ran += now - std::mem::replace(&mut last, now);
                let due = before + (ran.as_secs_f64() * self.writes_per_s) as u64;
                let mut done = count.load(Ordering::Relaxed);
                // A bounded burst, so that a stop is noticed soon.
                let burst_end = due.min(done + 256);
                while done < burst_end {
                    let write = self.script.write(vcpu, done);
                    let words = write.words(self.script.write_bytes);
                    self.memory.store(write.page, write.offset, words);
                    done += 1;
                    count.store(done, Ordering::Release);
                }
                if done == due {
                    std::thread::sleep(QUANTUM);
                }
            }
        }
    }

    /// How long a throttled vCPU must still wait at `time`: it runs at the start of each period.
    fn kept_from_running(&self, time: Duration) -> Option<Duration> {
        let kept = f64::from(self.throttle.load(Ordering::Acquire)) / 1000.0;
        let position = time.as_secs_f64() % THROTTLE_PERIOD.as_secs_f64();
        let runs_until = THROTTLE_PERIOD.as_secs_f64() * (1.0 - kept);
        let left = THROTTLE_PERIOD.as_secs_f64() - position;
        (position >= runs_until).then(|| Duration::from_secs_f64(left))
    }

    /// Waits until the guest runs; `false` when it ends.
    fn park(&self) -> bool {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        *parked += 1;
        self.changed.notify_all();
        while self.stop.load(Ordering::Acquire) && !self.end.load(Ordering::Acquire) {
            parked = self
                .changed
                .wait(parked)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *parked -= 1;
        !self.end.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pattern::Pattern;
    use super::super::proof;
    use super::*;

    const SCRIPT: Script = Script {
        seed: 1,
        pages: 600,
        filled_pages: 400,
        vcpus: 2,
        pattern: Pattern::Phases,
        write_bytes: 16,
    };

    /// Runs a guest until each vCPU has written a good deal, and stops it.
    fn ran() -> (Arc<DemoMemory>, Vec<u64>) {
        let memory = Arc::new(DemoMemory::new(SCRIPT.pages).unwrap());
        memory.fill(&SCRIPT);
        let mut guest = Guest::new(Arc::clone(&memory), SCRIPT, Rate(1 << 40), &[0, 0]);
        guest.run();
        while guest.counts().iter().any(|count| *count < 20_000) {
            std::thread::yield_now();
        }
        guest.stop();
        (memory, guest.counts())
    }

    #[test]
    fn the_memory_follows_from_the_numbers_of_writes() {
        let (memory, counts) = ran();
        proof::check(&*memory.view(), &SCRIPT, &counts).unwrap();
    }

    #[test]
    fn a_lost_write_and_a_changed_byte_are_found() {
        let (memory, counts) = ran();
        let view = memory.view();
        assert!(proof::check(&*view, &SCRIPT, &[counts[0] + 1, counts[1]]).is_err());
        memory.store(599, 4088, std::iter::once(1));
        let error = proof::check(&*view, &SCRIPT, &counts)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "page 599 does not hold what vCPU 1 wrote");
    }
}
