//! What a byte on the wire is worth, in time of the worker thread.
//!
//! Between the thread and the link lies the connection's buffer. How full it is says which of
//! the two is ahead: full, and the thread will wait for the link, so bytes are dear; empty, and
//! the link waits for the thread, so bytes are cheap and the thread's time is not. The price is
//! the link's time for a byte, times an exponential of how far the buffer is from half full, now
//! and summed up over the past: a controller with a proportional and an integral part. It
//! settles where the buffer is half full and neither waits, or at one of its ends, where one of
//! them must. An error in the link's rate shifts where it starts, not where it settles.
//!
//! The link's capacity can only be measured while threads wait for it. Otherwise it is taken to
//! be more than what flows, and the estimate grows until they wait again. Over a slow link it
//! takes a while until the target has acknowledged enough to tell its rate: until then it is
//! taken from what this thread got rid of between two observations, if it had to wait.

use super::cost::Estimate;
use super::{LinkConditions, Outcome, nanoseconds};
use crate::units::Instant;

/// Bytes that a connection buffers. Linux lets a socket grow to 4 MiB
/// (`net.ipv4.tcp_wmem`); if it holds more than is thought here, the link never idles either.
const BUFFER_BYTES: f64 = 500e3;

/// By how much a full buffer raises the logarithm of the price, and an empty one lowers it.
const GAIN: f64 = 1.5;

/// By how much it does so for good, with every block of the full size.
const DRIFT: f64 = 0.08;

/// Bounds of what has added up.
const MOST_DRIFT: f64 = 7.0;

/// Bytes of a block of the full size.
const BLOCK_BYTES: f64 = 256e3;

/// Growth of the capacity when the buffer should be full and the thread still need not wait.
const SURPRISE: f64 = 1.2;

/// Share of the time spent waiting above which the link counts as full.
const FULL: f64 = 0.03;

/// Filling of a buffer below which it counts as empty.
const EMPTY: f64 = 0.01;

/// Time in which the estimate of a link that is not full doubles.
const DOUBLING_S: f64 = 0.2;

/// Capacity until something is known, in bytes a second: 10 Gbit/s.
const UNKNOWN: f64 = 1.25e9;

/// Most that a link is taken for, in bytes a second: above any memory's bandwidth.
const MOST: f64 = 1e12;

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

    /// Nanoseconds that a byte of pages costs.
    pub(super) fn cost(&self, estimate: Estimate) -> f64 {
        self.cpu * estimate.encode_ns + self.wire * estimate.wire
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
    /// What the connection's buffer holds at most.
    buffer_bytes: f64,
    /// Filling of the connection's buffer, 0 to 1.
    filling: f64,
    /// Sum of past deviations of the filling from a half.
    drift: f64,
    /// For a buffer that cannot be looked at.
    held_bytes: f64,
    written_at: Option<Instant>,
    /// Since the last observation.
    busy_ns: f64,
    waited_ns: f64,
    /// Of both, while they could not go on at once.
    serial_ns: f64,
    sent_bytes: f64,
    observed: Option<Instant>,
    /// Share of the waiting that the target is to blame for.
    target_limited: f64,
}

impl Price {
    pub(super) fn new(workers: u16, stretch: f64) -> Self {
        Self {
            workers: f64::from(workers),
            stretch,
            capacity: UNKNOWN,
            cap: MOST,
            send_ns: SEND_NS,
            buffer_bytes: BUFFER_BYTES,
            filling: 0.5,
            drift: 0.0,
            held_bytes: 0.0,
            written_at: None,
            busy_ns: 0.0,
            waited_ns: 0.0,
            serial_ns: 0.0,
            sent_bytes: 0.0,
            observed: None,
            target_limited: 0.0,
        }
    }

    pub(super) fn rates(&self) -> Rates {
        let scarcity = (self.drift + GAIN * (2.0 * self.filling - 1.0)).exp();
        Rates {
            cpu: self.stretch,
            wire: self.stretch * self.send_ns + self.workers * 1e9 / self.capacity * scarcity,
        }
    }

    pub(super) fn sent(&mut self, outcome: &Outcome) {
        let wire = outcome.wire_bytes as f64;
        let waited = nanoseconds(outcome.waited) * (1.0 - self.target_limited);
        let busy = nanoseconds(outcome.read + outcome.encode + outcome.send) * self.stretch;
        self.busy_ns += busy;
        self.waited_ns += waited;
        self.sent_bytes += wire;
        if wire > 0.0 {
            let send_ns = (nanoseconds(outcome.send) / wire).min(4.0 * self.send_ns);
            self.send_ns += (send_ns - self.send_ns) / 16.0;
        }
        let held = match outcome.unsent_bytes {
            Some(unsent) => unsent as f64,
            None => self.reckon(outcome, waited > busy * FULL),
        };
        let room = outcome.buffer_bytes.map(|room| room as f64);
        self.buffer_bytes = room.unwrap_or(self.buffer_bytes).max(held).max(1.0);
        let size = (outcome.input_bytes as f64 / BLOCK_BYTES).min(1.0);
        let must_wait = waited > busy * FULL;
        let was_empty = outcome.unsent_bytes.is_some() && held < self.buffer_bytes * EMPTY;
        if must_wait && was_empty {
            // The buffer is too small for both to go on at once: each waits for the other, and
            // a block takes the sum of their times, which is least at the plain price.
            self.serial_ns += busy + waited;
            self.filling = 0.5;
            self.drift -= self.drift * DRIFT * size;
            return;
        }
        // What the target does not take is no reason to pack.
        let filling = held / self.buffer_bytes * (1.0 - self.target_limited);
        // A buffer that was never empty while the thread worked, and full when it wrote.
        let waiting = if must_wait {
            waited / (waited + busy)
        } else {
            0.0
        };
        self.filling = filling.max(waiting);
        self.drift =
            (self.drift + DRIFT * size * (2.0 * self.filling - 1.0)).clamp(-MOST_DRIFT, MOST_DRIFT);
    }

    /// What a buffer that cannot be looked at held before this block: what was written before,
    /// less what the link carried since.
    fn reckon(&mut self, outcome: &Outcome, must_wait: bool) -> f64 {
        let before = self.written_at.replace(outcome.done);
        let elapsed_s = before.map_or(0.0, |before| outcome.done.since(before).as_secs_f64());
        let carried = elapsed_s * self.capacity / self.workers;
        let held = (self.held_bytes - carried).max(0.0);
        self.held_bytes = held + outcome.wire_bytes as f64;
        if must_wait {
            self.held_bytes = self.buffer_bytes;
            return self.buffer_bytes;
        }
        if self.held_bytes > self.buffer_bytes {
            // It should have been full, and was not: the link carried more than was thought.
            self.capacity = (self.capacity * SURPRISE).min(self.cap);
            self.held_bytes = self.buffer_bytes;
        }
        held
    }

    pub(super) fn observe(&mut self, now: Instant, link: LinkConditions) {
        self.target_limited = link.target_limited.clamp(0.0, 1.0);
        let total = self.busy_ns + self.waited_ns;
        if let Some(placed) = link.placed.filter(|placed| placed.0 > 0)
            && total > 0.0
        {
            let since = self.observed.replace(now);
            let placed = placed.0 as f64;
            self.capacity = if self.waited_ns > FULL * total {
                placed / self.used_share(total)
            } else {
                let seconds = since.map_or(0.0, |since| now.since(since).as_secs_f64());
                (self.capacity * (seconds / DOUBLING_S).min(4.0).exp2()).max(placed)
            };
            self.begin_interval();
        } else if self.observed.is_none() && total > 0.0 {
            let waited_ns = self.waited_ns * (1.0 - self.target_limited);
            if waited_ns > FULL * total {
                let flows = self.sent_bytes * 1e9 / (self.busy_ns + waited_ns);
                self.capacity = self.workers * flows;
            }
            self.begin_interval();
        }
        self.cap = link.cap.map_or(MOST, |cap| (cap.0 as f64).clamp(1.0, MOST));
        self.capacity = self.capacity.clamp(1.0, self.cap);
    }

    fn begin_interval(&mut self) {
        (self.busy_ns, self.waited_ns) = (0.0, 0.0);
        (self.serial_ns, self.sent_bytes) = (0.0, 0.0);
    }

    /// The share of the time, of `total`, in which the link had something to carry. It has nothing
    /// only while all threads work at once, and their buffers are too small for that time.
    fn used_share(&self, total: f64) -> f64 {
        if self.serial_ns < total / 2.0 {
            return 1.0;
        }
        1.0 - (self.busy_ns / total).powf(self.workers)
    }
}
