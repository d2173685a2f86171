//! What is kept of a throttled thread, and what its signal handler does with it: when it sleeps.
//!
//! The handler may interrupt its thread anywhere, within malloc or with any lock held. So it
//! allocates nothing, takes no lock, and shares only atomics with the agent's thread. A slot
//! belongs to one thread as long as that thread lives; its accounts are touched by its handler
//! alone, which never interrupts itself.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use pagelift_agent_protocol::MAX_THREADS;

use super::big_lock;
use super::rhythm::{Rhythm, STOP_NS_MAX};
use super::timer::{self, Timer};

/// Shortest time for which the timer is armed: below, a thread would only handle signals.
const DELAY_NS_MIN: u64 = 20_000;

/// Pause before the next look at a thread that holds QEMU's big lock.
const LOCK_RETRY_NS: u64 = 50_000;

/// Most that a thread can owe: what it may not pay for long, it does not pay for long after.
const DEBT_NS_MAX: i64 = 100_000_000;

/// "Not known" among processor times.
const UNKNOWN: u64 = u64::MAX;

/// What is known of one thread.
pub(super) struct Slot {
    /// The thread, 0 while the slot has none.
    tid: AtomicU32,
    /// 0 while the thread is not throttled. A sleeper waits for it to change.
    stopped_permille: AtomicU32,
    stop_ns: AtomicU64,
    run_ns: AtomicU64,
    /// Id of the timer, -1 for none.
    timer: AtomicI32,
    /// Sleep that the thread owes; negative if it has slept too long.
    debt_ns: AtomicI64,
    /// Processor time of the thread at the last look, or `UNKNOWN`.
    cpu_ns: AtomicU64,
    /// What the timer was last armed for.
    delay_ns: AtomicU64,
    /// A signal has arrived: the thread does not block it (but in the handler).
    is_reached: AtomicBool,
}

static SLOTS: [Slot; MAX_THREADS] = [const { Slot::free() }; MAX_THREADS];

/// When the lease is over, on the clock of `timer::now_ns`.
static LEASE_END_NS: AtomicU64 = AtomicU64::new(0);

/// The slot that a timer's signal names.
pub(super) fn slot_at(index: usize) -> Option<&'static Slot> {
    SLOTS.get(index)
}

/// The slot of the thread `tid`: its own from earlier, or a new one. `None` if all are taken.
pub(super) fn slot_of(tid: u32) -> Option<&'static Slot> {
    let same = |slot: &&Slot| [tid, 0].contains(&slot.tid());
    let gone = |slot: &&Slot| !timer::thread_exists(slot.tid());
    // Slots fill up from the front: behind a free one there is none in use.
    let slot = SLOTS
        .iter()
        .find(same)
        .or_else(|| SLOTS.iter().find(gone))?;
    if slot.tid.swap(tid, Ordering::Relaxed) != tid {
        slot.is_reached.store(false, Ordering::Relaxed);
    }
    Some(slot)
}

/// Whether the thread `tid` has ever got the signal.
pub(super) fn has_been_reached(tid: u32) -> bool {
    SLOTS
        .iter()
        .take_while(|slot| slot.tid() != 0)
        .any(|slot| slot.tid() == tid && slot.is_reached.load(Ordering::Relaxed))
}

pub(super) fn set_lease_end(length: Duration) {
    let length_ns = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    let end_ns = timer::now_ns().saturating_add(length_ns);
    LEASE_END_NS.store(end_ns, Ordering::Relaxed);
}

impl Slot {
    const fn free() -> Self {
        Self {
            tid: AtomicU32::new(0),
            stopped_permille: AtomicU32::new(0),
            stop_ns: AtomicU64::new(0),
            run_ns: AtomicU64::new(0),
            timer: AtomicI32::new(-1),
            debt_ns: AtomicI64::new(0),
            cpu_ns: AtomicU64::new(UNKNOWN),
            delay_ns: AtomicU64::new(0),
            is_reached: AtomicBool::new(false),
        }
    }

    pub(super) fn tid(&self) -> u32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// Starts throttling the thread.
    ///
    /// # Errors
    /// As timer_create(2).
    pub(super) fn begin(&'static self, rhythm: Rhythm) -> io::Result<()> {
        let index = SLOTS.iter().position(|slot| std::ptr::eq(slot, self));
        let timer = Timer::new(self.tid(), index.unwrap_or(MAX_THREADS))?;
        self.debt_ns.store(0, Ordering::Relaxed);
        self.cpu_ns.store(UNKNOWN, Ordering::Relaxed);
        self.timer.store(timer.0, Ordering::Relaxed);
        self.set_rhythm(rhythm);
        self.arm(rhythm.run_ns);
        Ok(())
    }

    /// Goes on in another rhythm, and wakes the thread to it if that is one.
    pub(super) fn change(&self, rhythm: Rhythm) {
        let before = self.stopped_permille.load(Ordering::Relaxed);
        self.set_rhythm(rhythm);
        if before != rhythm.stopped_permille {
            timer::wake(&self.stopped_permille);
        }
    }

    /// Stops throttling the thread, and wakes it.
    pub(super) fn release(&self) {
        self.stopped_permille.store(0, Ordering::Release);
        timer::wake(&self.stopped_permille);
        let timer = Timer(self.timer.swap(-1, Ordering::Relaxed));
        timer.delete();
    }

    fn set_rhythm(&self, rhythm: Rhythm) {
        // A handler that sees one half of this errs for one period.
        self.stop_ns.store(rhythm.stop_ns, Ordering::Relaxed);
        self.run_ns.store(rhythm.run_ns, Ordering::Relaxed);
        self.stopped_permille
            .store(rhythm.stopped_permille, Ordering::Release);
    }

    fn rhythm(&self) -> Option<Rhythm> {
        let stopped_permille = self.stopped_permille.load(Ordering::Acquire);
        (stopped_permille > 0).then(|| Rhythm {
            stopped_permille,
            stop_ns: self.stop_ns.load(Ordering::Relaxed),
            run_ns: self.run_ns.load(Ordering::Relaxed),
        })
    }

    fn arm(&self, delay_ns: u64) {
        let delay_ns = delay_ns.max(DELAY_NS_MIN);
        self.delay_ns.store(delay_ns, Ordering::Relaxed);
        Timer(self.timer.load(Ordering::Relaxed)).arm(delay_ns);
    }

    /// The signal handler's work, in the slot's own thread.
    pub(super) fn on_timer(&self) {
        self.is_reached.store(true, Ordering::Relaxed);
        let (now_ns, lease_end_ns) = (timer::now_ns(), LEASE_END_NS.load(Ordering::Relaxed));
        let Some(rhythm) = self.rhythm().filter(|_| now_ns < lease_end_ns) else {
            return;
        };
        let cpu_ns = timer::thread_cpu_ns();
        let ran_ns = match self.cpu_ns.swap(cpu_ns, Ordering::Relaxed) {
            UNKNOWN => rhythm.run_ns.min(cpu_ns),
            before => cpu_ns.saturating_sub(before),
        };
        let debt_ns = self.debt_ns.load(Ordering::Relaxed);
        let debt_ns = debt_ns
            .saturating_add(rhythm.debt_of(ran_ns))
            .min(DEBT_NS_MAX);
        self.debt_ns.store(debt_ns, Ordering::Relaxed);
        if debt_ns < rhythm.stop_ns.cast_signed() {
            self.arm(self.next_look(rhythm, debt_ns, ran_ns));
            return;
        }
        if big_lock::is_held() {
            self.arm(LOCK_RETRY_NS);
            return;
        }
        let stop_ns = debt_ns.cast_unsigned().min(STOP_NS_MAX);
        let end_ns = (now_ns + stop_ns).min(lease_end_ns);
        timer::sleep_until(end_ns, &self.stopped_permille, rhythm.stopped_permille);
        let slept_ns = timer::now_ns().saturating_sub(now_ns);
        // Oversleeping is paid back, but not a night of suspended hosts and debuggers.
        let credit_ns_max = rhythm.stop_ns.cast_signed();
        let debt_ns = debt_ns
            .saturating_sub_unsigned(slept_ns)
            .max(-credit_ns_max);
        self.debt_ns.store(debt_ns, Ordering::Relaxed);
        self.cpu_ns.store(timer::thread_cpu_ns(), Ordering::Relaxed);
        if let Some(rhythm) = self.rhythm() {
            self.arm(rhythm.run_until_stop(debt_ns));
        }
    }

    /// When to look again at a thread that does not owe a whole stop yet. A thread that hardly
    /// ran is looked at ever more seldom, down to once a period.
    fn next_look(&self, rhythm: Rhythm, debt_ns: i64, ran_ns: u64) -> u64 {
        let soonest_ns = rhythm.run_until_stop(debt_ns);
        let last_ns = self.delay_ns.load(Ordering::Relaxed);
        if ran_ns < last_ns / 8 {
            let period_ns = rhythm.stop_ns + rhythm.run_ns;
            soonest_ns.max((2 * last_ns).min(period_ns))
        } else {
            soonest_ns
        }
    }
}
