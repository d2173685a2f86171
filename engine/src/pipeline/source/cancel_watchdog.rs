//! Closes the connections when a cancellation is not noticed in time.
//!
//! The coordinator notices a cancellation between two steps. A step may take longer: a control
//! message that a full connection does not take, say. Then the connections are closed, so that
//! every call on them returns. The target is not told why, and finds out by itself: a guest that
//! runs free matters more.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::migration::Source;
use crate::pipeline::cancel::CancelToken;
use crate::pipeline::shared::Shared;
use crate::transport::Closer;

/// How often the flag is looked at, which a signal handler may set without waking anybody.
const FLAG_TICK: Duration = Duration::from_millis(20);

/// How long the coordinator may take to notice a cancellation.
const GRACE: Duration = Duration::from_millis(30);

/// How long it may take to tell the target, when the guest is free already.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the coordinator and the watchdog thread share.
#[derive(Debug, Default)]
pub(super) struct CancelWatchdog {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Of all connections.
    closers: Vec<Closer>,
    /// The coordinator has noticed the cancellation.
    is_noticed: bool,
    /// It has ended.
    is_over: bool,
}

impl CancelWatchdog {
    /// A connection was made.
    pub(super) fn connected(&self, closer: Closer) {
        self.lock().closers.push(closer);
    }

    /// The coordinator has noticed.
    pub(super) fn noticed(&self) {
        self.lock().is_noticed = true;
        self.changed.notify_all();
    }

    /// The coordinator has ended: the watchdog thread ends.
    pub(super) fn over(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Somebody may have cancelled.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Closes all connections.
    pub(super) fn close(&self) {
        let closers = std::mem::take(&mut self.lock().closers);
        closers.iter().for_each(Closer::close);
    }

    /// Runs in the watchdog thread until the coordinator ends.
    pub(super) fn watch(&self, shared: &Shared<Source>, cancel: &CancelToken) {
        let mut state = self.lock();
        while !state.is_over && !cancel.is_cancelled() {
            state = self.wait(state, FLAG_TICK);
        }
        if state.is_over {
            return;
        }
        drop(state);
        cancel.noticed();
        shared.wake();
        if !self.happens_within(GRACE, |state| state.is_noticed)
            // A hand-over cannot be cancelled, and its answer must be heard.
            && !shared.look(Source::has_handed_over)
        {
            self.close();
        }
        if !self.happens_within(LAST_WORDS, |state| state.is_over)
            && !shared.look(Source::has_handed_over)
        {
            self.close();
        }
    }

    /// Whether something has happened before `limit` has passed.
    fn happens_within(&self, limit: Duration, what: impl Fn(&State) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if state.is_over || what(&state) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.wait(state, left);
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, limit);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
