//! What a byte on the wire is worth, in time of the worker thread.
//!
//! It is the link's time for a byte, times how much scarcer the link's time is than the thread's.
//! How that is told depends on the connection's buffer, which lies between the two.
//!
//! *A buffer of several blocks* says by its [filling](Queue) which of the two is ahead. An error
//! in the link's rate shifts where the price starts, not where it settles.
//!
//! *A buffer of about a block*, as short paths have (`docs/decisions/010`), or one that does not say
//! what it holds, is full after one block
//! and empty before the next, whoever is ahead. Without any, the link would idle while all `w`
//! threads work at once. Let `c` be the share of its time in which a thread works, `K` its work
//! and `L` the link's time for all bytes; then the whole takes a time `T` for which
//!
//! ```text
//!     T * (1 - c^w)  =  L,    c = K / T
//! ```
//!
//! and it is least if work is weighed against bytes by `dT/dK` against `dT/dL`: a byte is worth the
//! link's time for it, divided by `c^(w-1)`. Each block that the buffer holds takes from the time
//! in which the link idles, as one more thread would, so that the less threads work, the steeper
//! the price rises: the exponent is `w - 1` and the number of packed blocks the buffer holds. The
//! price changes with what threads did over [some time](Recent), not from block to block: a buffer
//! of a block cannot even out a dear and a cheap one.
//!
//! The link's capacity can only be measured while threads wait for it: it is what flows, divided by
//! the share of the time in which the link had something to carry. That is the model above once
//! more, with the time spent on pages that need no block, such as zeros, among the work: what flows
//! alone would make the link look the slower the more is packed. It takes threads to work at
//! random; where they take turns, one packing while the other's bytes are carried, the connections'
//! own account of when they had something to carry says so. Where nobody waits, it is taken to be
//! more than what flows, and the estimate grows until they wait again. Until the target has
//! acknowledged enough to tell its rate, it is taken from what this thread got rid of.
//!
//! Where others want the processors, what the thread works takes longer than the work: its time is
//! dearer, and counts as work where it would otherwise be waiting. That is so where no processor is
//! idle. Where some are, somebody was in the way for a moment, and more work would find room.

use super::guess::Estimate;
use super::queue::Queue;
use super::recent::Recent;
use super::{LinkConditions, Outcome, nanoseconds};
use crate::units::Instant;
use std::time::Duration;

/// Share of its time in which a thread works where its time is as scarce as the link's, with a
/// buffer of about a block. (With two threads and no buffer it is a half.)
const BALANCED: f64 = 0.65;

/// By how much that share is larger where processors are idle: the work takes none from the target.
const BALANCED_MORE: f64 = 0.2;

/// Bytes of a packed block.
const PACKED_BYTES: f64 = 128e3;

/// Most that the scarcity rises with, as a power of how little the threads work.
const STEEPEST: f64 = 4.0;

/// Share of the time spent waiting above which the link counts as full.
const FULL: f64 = 0.03;

/// Time in which the estimate of a link that is not full doubles.
const DOUBLING_S: f64 = 0.2;

/// Time, and bytes, after which what flowed counts a third. Acknowledgements come every few frames, so
/// that short times say little of a slow link.
const FLOW_S: f64 = 0.4;
const FLOW_BYTES: f64 = 64e6;

/// Most that a link is taken for, in bytes a second: above any memory's bandwidth.
const MOST: f64 = 1e12;

/// Share of the processors' time that nobody uses below which there is no room for more work. The
/// times of which it is made are to 10 ms.
const FULLY_USED: f64 = 0.05;

/// The share from which on there is.
const AMPLE: f64 = 0.15;

/// Weight of a new measurement of that share.
const IDLE_WEIGHT: f64 = 0.25;

/// Processor time to send a byte until it is measured, in nanoseconds: TCP on loopback.
const SEND_NS: f64 = 0.2;

/// Prices for one decision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// Of a nanosecond of packing.
    cpu: f64,
    /// Of a byte on the wire, in nanoseconds.
    wire: f64,
}

impl Rates {
    /// Nanoseconds that a byte on the wire is worth.
    pub(super) fn wire_ns(&self) -> f64 {
        self.wire
    }

    /// Nanoseconds that it costs to pack a byte.
    pub(super) fn packing(&self, estimate: Estimate) -> f64 {
        self.cpu * estimate.encode_ns
    }

    /// Nanoseconds that a byte of pages costs.
    pub(super) fn cost(&self, estimate: Estimate) -> f64 {
        self.packing(estimate) + self.wire * estimate.wire
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Price {
    workers: f64,
    /// Wall time that a limit of the processor makes of a unit of its time.
    stretch: f64,
    /// Of the whole link, in bytes a second.
    capacity: f64,
    cap: f64,
    send_ns: f64,
    queue: Queue,
    recent: Recent,
    flow: Flow,
    /// Since the last observation: work, that on frames without blocks included, and waiting.
    busy_ns: f64,
    waited_ns: f64,
    /// When the target's rate was taken in last.
    observed: Option<Instant>,
    /// Share of the waiting that the target is to blame for.
    target_limited: f64,
    /// Share of the processors' time that nobody used; `None` while it is unknown.
    idle: Option<f64>,
}

impl Price {
    pub(super) fn new(workers: u16, stretch: f64) -> Self {
        let (workers, recent) = (f64::from(workers), Recent::new());
        Self {
            workers,
            stretch,
            capacity: workers * recent.rate(),
            cap: MOST,
            send_ns: SEND_NS,
            queue: Queue::new(),
            recent,
            flow: Flow::default(),
            busy_ns: 0.0,
            waited_ns: 0.0,
            observed: None,
            target_limited: 0.0,
            idle: None,
        }
    }

    pub(super) fn rates(&self) -> Rates {
        let scarcity = if self.queue.is_roomy() {
            self.queue.scarcity()
        } else {
            let power = self.workers - 1.0 + self.queue.room() / PACKED_BYTES;
            let balanced = BALANCED + BALANCED_MORE * (1.0 - self.crowded());
            (balanced / self.recent.working()).powf(power.min(STEEPEST))
        };
        let cpu = self.stretch * self.recent.dilation();
        Rates {
            cpu,
            wire: cpu * self.send_ns + self.workers * 1e9 / self.capacity * scarcity,
        }
    }

    pub(super) fn sent(&mut self, outcome: &Outcome) {
        let wire = outcome.wire_bytes as f64;
        // What the target does not take is no reason to pack.
        let waited = nanoseconds(outcome.waited) * (1.0 - self.target_limited);
        let tried = outcome.tried.map_or(Duration::ZERO, |tried| tried.encode);
        let worked = outcome.read + outcome.encode + tried + outcome.send;
        let delayed = nanoseconds(outcome.delayed) * self.crowded();
        let busy = nanoseconds(worked) * self.stretch + delayed;
        self.busy_ns += busy + nanoseconds(outcome.besides) * self.stretch;
        self.waited_ns += waited;
        self.recent.spent(busy, delayed, waited, wire);
        if self.observed.is_none() {
            self.capacity = (self.workers * self.recent.rate()).clamp(1.0, self.cap);
        }
        if wire > 0.0 {
            let send_ns = (nanoseconds(outcome.send) / wire).min(4.0 * self.send_ns);
            self.send_ns += (send_ns - self.send_ns) / 16.0;
        }
        let must_wait = waited > busy * FULL;
        let Some(filling) = self.queue.seen(outcome) else {
            return;
        };
        // A buffer that was never empty while the thread worked, and full when it wrote.
        let waiting = if must_wait {
            waited / (waited + busy)
        } else {
            0.0
        };
        let filling = (filling * (1.0 - self.target_limited)).max(waiting);
        self.queue.filled(filling, outcome.input_bytes);
    }

    pub(super) fn observe(&mut self, now: Instant, link: LinkConditions) {
        self.target_limited = link.target_limited.clamp(0.0, 1.0);
        self.idle = link.idle.map(|idle| {
            let before = self.idle.unwrap_or(idle);
            before + (idle - before) * IDLE_WEIGHT
        });
        let total = self.busy_ns + self.waited_ns;
        if let Some(placed) = link.placed.filter(|placed| placed.0 > 0)
            && total > 0.0
        {
            let since = self.observed.replace(now);
            let placed = placed.0 as f64;
            self.capacity = if self.waited_ns > FULL * total {
                let carrying = link.carrying.unwrap_or(0.0);
                self.flow
                    .add(placed, self.busy_ns, self.waited_ns, carrying);
                self.flow.rate() / self.used_share()
            } else {
                self.flow = Flow::default();
                let seconds = since.map_or(0.0, |since| now.since(since).as_secs_f64());
                (self.capacity * (seconds / DOUBLING_S).min(4.0).exp2()).max(placed)
            };
            (self.busy_ns, self.waited_ns) = (0.0, 0.0);
        }
        self.cap = link.cap.map_or(MOST, |cap| (cap.0 as f64).clamp(1.0, MOST));
        self.capacity = self.capacity.clamp(1.0, self.cap);
    }

    /// How much of the time counts in which the thread was ready to work and had no processor, 0
    /// to 1.
    fn crowded(&self) -> f64 {
        let room = (self.idle.unwrap_or(0.0) - FULLY_USED) / (AMPLE - FULLY_USED);
        1.0 - room.clamp(0.0, 1.0)
    }

    /// The share of the time in which the link had something to carry. It has nothing only while all
    /// threads work at once, and their buffers are too small for that time: each block that they hold
    /// is as good as one more thread. Where threads take turns it has more than this says, as much as
    /// all connections one after the other at most.
    fn used_share(&self) -> f64 {
        let power = self.workers + self.queue.room() / PACKED_BYTES;
        let by_chance = 1.0 - self.flow.working().powf(power);
        by_chance.max((self.workers * self.flow.carrying()).min(1.0))
    }
}

/// What flowed over the link of late, over all connections, and how this thread spent that time:
/// sums of which older parts fade.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    bytes: f64,
    busy_ns: f64,
    waited_ns: f64,
    /// Of these, how long its connection had something to carry, as far as that is known.
    carried_ns: f64,
}

impl Flow {
    /// So many bytes a second flowed while the thread worked and waited for so long, and its
    /// connection was `carrying` something for such a share of that.
    fn add(&mut self, rate: f64, busy_ns: f64, waited_ns: f64, carrying: f64) {
        let seconds = (busy_ns + waited_ns) * 1e-9;
        let bytes = rate * seconds;
        let keep = (-(seconds / FLOW_S + bytes / FLOW_BYTES)).exp();
        self.bytes = self.bytes * keep + bytes;
        self.busy_ns = self.busy_ns * keep + busy_ns;
        self.waited_ns = self.waited_ns * keep + waited_ns;
        self.carried_ns = self.carried_ns * keep + carrying * (busy_ns + waited_ns);
    }

    /// Bytes a second.
    fn rate(&self) -> f64 {
        self.bytes * 1e9 / (self.busy_ns + self.waited_ns)
    }

    /// The share of the time in which the thread worked.
    fn working(&self) -> f64 {
        self.busy_ns / (self.busy_ns + self.waited_ns)
    }

    /// The share of the time in which its connection had something to carry; 0 if unknown.
    fn carrying(&self) -> f64 {
        self.carried_ns / (self.busy_ns + self.waited_ns)
    }
}
