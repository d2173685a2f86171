//! The cap that the connections of a link share, and waiting under it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pagelift_engine::units::{ByteCount, Rate};

use super::pacer::Pacer;

/// A cap on the rate of several connections together, or none. Clones are the same cap.
#[derive(Clone, Debug, Default)]
pub(super) struct Cap(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether there is a pacer, to be read without the lock.
    is_capped: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    pacer: Option<Pacer>,
    /// How often the cap was changed.
    changes: u64,
}

impl Cap {
    /// Caps at `rate` from now on; `None` lifts the cap. Threads that wait go on at once: a change
    /// may let every connection write one slice out of turn.
    pub(super) fn set(&self, rate: Option<Rate>) {
        let mut state = self.lock();
        state.pacer = rate.map(|rate| Pacer::new(rate, Instant::now()));
        state.changes += 1;
        self.0.is_capped.store(rate.is_some(), Ordering::Release);
        drop(state);
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the writer of one connection waits for its turn, until the connection is closed. Clones are
/// the same gate.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    closed: Arc<AtomicBool>,
    cap: Cap,
}

impl Gate {
    /// A gate for a connection under `cap`.
    pub(super) fn new(cap: &Cap) -> Self {
        Self {
            closed: Arc::default(),
            cap: cap.clone(),
        }
    }

    /// Lets the writer go on at once, now and from now on: its connection is closed.
    pub(super) fn close(&self) {
        {
            // Under the lock, or a writer might look just before and wait just after.
            let _state = self.cap.lock();
            self.closed.store(true, Ordering::Release);
        }
        self.cap.0.changed.notify_all();
    }

    /// Most bytes to send at a time; `None` without a cap.
    pub(super) fn slice_bytes(&self) -> Option<usize> {
        self.pacer().map(|pacer| pacer.slice_bytes())
    }

    /// The pacer as it stands; `None` without a cap.
    pub(super) fn pacer(&self) -> Option<Pacer> {
        if !self.cap.0.is_capped.load(Ordering::Acquire) {
            return None;
        }
        self.cap.lock().pacer
    }

    /// Waits until `bytes` may leave, the cap changes, or the gate is closed.
    pub(super) fn wait_for(&self, bytes: usize) {
        let mut state = self.cap.lock();
        let now = Instant::now();
        let Some(pacer) = &mut state.pacer else {
            return;
        };
        let until = now + pacer.take(now, ByteCount(bytes as u64));
        let changes = state.changes;
        while state.changes == changes && !self.closed.load(Ordering::Acquire) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.cap.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
