//! Throttles threads of this process: each is stopped for a share of its time.
//!
//! # How
//! A throttled thread has a kernel timer of its own that sends the throttle's signal to it
//! (`timer`). The handler sleeps in the thread for as long as its share demands, arms the timer
//! for the next run and returns (`slot`). No thread of the agent takes part in the rhythm: the
//! timer's interrupt finds the vCPU on its processor, also where all processors are busy. A vCPU
//! in KVM_RUN leaves it with EINTR, sleeps, and enters again; generated code is just interrupted.
//!
//! # The law
//! A thread owes `share / (1 - share)` of the processor time that it used, and a stop pays. So a
//! vCPU that halts by itself is not stopped on top of that, one that is late is made to catch
//! up, and what a stop lasts too long is taken off the next, also what the thread then waits for
//! a processor. A stop lasts its share of the period, at most `rhythm::STOP_NS_MAX`; where that
//! or a run would be too long or too short, another period keeps the share.
//!
//! # Locks
//! A vCPU that were stopped while it holds QEMU's big lock would stop QEMU's main loop, monitor
//! and devices with it. QEMU tells which thread holds it (`bql_locked`, before 9.0
//! `qemu_mutex_iothread_locked`): such a thread runs on until it has let go, and pays then. If
//! QEMU has neither function, or for another lock, one stop is what its waiters wait.
//!
//! # The end
//! All throttling ends with the lease, the connection, or the agent's thread, whatever comes
//! first: sleepers are woken. Should the agent's thread itself be stuck, the handler sees that
//! the lease is over and does not stop the thread any more.

#[cfg(test)]
mod bench;
mod big_lock;
mod handler;
mod rhythm;
mod slot;
mod timer;

use std::time::{Duration, Instant};

use pagelift_agent_protocol::{ErrorCode, ErrorReply, Lease, ThreadShare, ThrottleRequest};

use crate::signal_mask::{SIGNAL, mask_of};
use rhythm::Rhythm;
use slot::Slot;

/// Looks at a thread that blocks the throttle's signal before it is taken to do so for good.
const SIGNAL_MASK_LOOKS: u32 = 4;

/// What is throttled for one client. Released when dropped.
#[derive(Default)]
pub(crate) struct ThreadThrottler {
    /// Slots in use, without order.
    active: Vec<&'static Slot>,
    lease_end: Option<Instant>,
}

impl ThreadThrottler {
    /// Puts `throttle` in the place of what was before.
    ///
    /// # Errors
    /// With `NoThread` all is as it was; with anything else nothing is throttled any more.
    pub(crate) fn apply(&mut self, throttle: &ThrottleRequest) -> Result<(), ErrorReply> {
        let threads: Vec<&ThreadShare> = throttle
            .threads()
            .iter()
            .filter(|thread| thread.stopped_permille > 0)
            .collect();
        let Some(lease) = throttle.lease().filter(|_| !threads.is_empty()) else {
            self.release();
            return Ok(());
        };
        check(throttle.threads())?;
        self.replace(&threads, throttle.period_us(), lease)
            .inspect_err(|_| self.release())
    }

    fn replace(
        &mut self,
        threads: &[&ThreadShare],
        period_us: u32,
        lease: Lease,
    ) -> Result<(), ErrorReply> {
        let cannot = |text| ErrorReply {
            code: ErrorCode::CannotThrottle,
            text,
        };
        handler::install().map_err(cannot)?;
        // Handlers that saw the end of the lease have not armed their timers again.
        if self.time_left() == Some(Duration::ZERO) {
            self.release();
        }
        self.begin_lease(lease);
        self.active.retain(|slot| {
            let is_wanted = threads.iter().any(|thread| thread.tid == slot.tid());
            if !is_wanted {
                slot.release();
            }
            is_wanted
        });
        for thread in threads {
            let rhythm = Rhythm::new(thread.stopped_permille, period_us);
            if let Some(slot) = self.active.iter().find(|slot| slot.tid() == thread.tid) {
                slot.change(rhythm);
                continue;
            }
            let slot = slot::slot_of(thread.tid)
                .ok_or_else(|| cannot("more than 4096 threads are throttled".into()))?;
            match slot.begin(rhythm) {
                Ok(()) => self.active.push(slot),
                // A vCPU may be unplugged at any moment.
                Err(_) if !exists(thread.tid) => {}
                Err(error) => {
                    return Err(cannot(format!(
                        "no timer for thread {}: {error}; raise the limit of pending signals of \
                         QEMU's user (ulimit -i), and allow timer_create in a seccomp profile",
                        thread.tid
                    )));
                }
            }
        }
        Ok(())
    }

    /// Goes on for the time of `lease` from now.
    ///
    /// # Errors
    /// `NoLease` when nothing is throttled.
    pub(crate) fn renew(&mut self, lease: Lease) -> Result<(), ErrorReply> {
        // The handler keeps the lease to the nanosecond: what has come too late is over, even
        // if nobody has released it yet.
        if self.lease_end.is_none_or(|end| end <= Instant::now()) {
            self.release();
            return Err(ErrorReply {
                code: ErrorCode::NoLease,
                text: "nothing is throttled: the lease was over; send THROTTLE again".into(),
            });
        }
        self.begin_lease(lease);
        Ok(())
    }

    fn begin_lease(&mut self, lease: Lease) {
        let length = Duration::from_millis(lease.millis().into());
        self.lease_end = Some(Instant::now() + length);
        slot::set_lease_end(length);
    }

    /// Time left of the lease; `None` if nothing is throttled.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let end = self.lease_end?;
        Some(end.saturating_duration_since(Instant::now()))
    }

    /// Lets all threads run, at once.
    pub(crate) fn release(&mut self) {
        self.lease_end = None;
        for slot in self.active.drain(..) {
            slot.release();
        }
    }
}

impl Drop for ThreadThrottler {
    fn drop(&mut self) {
        self.release();
    }
}

/// Refuses threads that are not there, and those without which QEMU does not answer.
fn check(threads: &[ThreadShare]) -> Result<(), ErrorReply> {
    let no_thread = |text| ErrorReply {
        code: ErrorCode::NoThread,
        text,
    };
    let missing: Vec<String> = threads
        .iter()
        .filter(|thread| !exists(thread.tid))
        .map(|thread| thread.tid.to_string())
        .collect();
    let own_pid = std::process::id();
    if !missing.is_empty() {
        return Err(no_thread(format!(
            "no thread {} in process {own_pid}; ask query-cpus-fast for the vCPUs' thread-id",
            missing.join(", ")
        )));
    }
    for thread in threads {
        if thread.tid == own_pid || thread.tid == timer::own_tid() {
            return Err(no_thread(format!(
                "thread {} is no vCPU: QEMU or its agent would not answer any more",
                thread.tid
            )));
        }
        if !slot::has_been_reached(thread.tid) && blocks_signal(thread.tid) {
            return Err(ErrorReply {
                code: ErrorCode::CannotThrottle,
                text: format!(
                    "thread {} blocks signal {SIGNAL}, so that it cannot be stopped; a library \
                     in QEMU sets its signal mask by a system call of its own",
                    thread.tid
                ),
            });
        }
    }
    Ok(())
}

fn exists(tid: u32) -> bool {
    timer::thread_exists(tid)
}

/// Whether the throttle's signal would never reach the thread. Without /proc it counts as no.
fn blocks_signal(tid: u32) -> bool {
    let blocks_now = || {
        std::fs::read_to_string(format!("/proc/self/task/{tid}/status"))
            .ok()
            .and_then(|status| {
                let text = status
                    .lines()
                    .find_map(|line| line.strip_prefix("SigBlk:"))?;
                u64::from_str_radix(text.trim(), 16).ok()
            })
            .is_some_and(|blocked| blocked & mask_of(SIGNAL) != 0)
    };
    // The C library blocks all signals for moments, as when it creates a thread.
    (0..SIGNAL_MASK_LOOKS).all(|look| {
        if look > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        blocks_now()
    })
}
