//! Asking a migration to end, and being heard at once.
//!
//! A [`CancelToken`] is a flag that wakes who waits for it. It also keeps the time: how long
//! after the request the guest was free again is what a user wants to know of it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Asks a running migration to end. Clones ask the same one.
#[derive(Clone, Default)]
pub struct CancelToken {
    flag: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    asked: Option<Instant>,
    freed_after: Option<Duration>,
    wake: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelToken")
            .field(&self.is_cancelled())
            .finish()
    }
}

impl CancelToken {
    /// Asks. The guest goes on on the source, unless it was handed over already.
    pub fn cancel(&self) {
        let wake = {
            let mut state = self.lock();
            state.asked.get_or_insert_with(Instant::now);
            state.wake.clone()
        };
        self.flag.store(true, Ordering::Release);
        if let Some(wake) = wake {
            wake();
        }
    }

    /// The flag itself, for a signal handler to set. Nobody is woken by that: it is noticed
    /// within 20 ms.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// How long after the request the guest was at full speed on the source again, with nothing
    /// tracked any more; `None` if it was not asked, or not heeded.
    pub fn freed_after(&self) -> Option<Duration> {
        self.lock().freed_after
    }

    /// Calls `wake` when somebody asks, instead of what was to be called before.
    pub(super) fn on_cancel(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.lock().wake = Some(Arc::new(wake));
    }

    /// Nobody waits for it any more.
    pub(super) fn forget(&self) {
        self.lock().wake = None;
    }

    /// Somebody saw the flag: from when on its time counts if it was set without a word.
    pub(super) fn noticed(&self) {
        self.lock().asked.get_or_insert_with(Instant::now);
    }

    /// The guest is free.
    pub(super) fn freed(&self) {
        let mut state = self.lock();
        if self.is_cancelled() && state.freed_after.is_none() {
            state.freed_after = state.asked.map(|asked| asked.elapsed());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_woken_until_it_waits_no_more() {
        let token = CancelToken::default();
        let woken = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&woken);
        token.on_cancel(move || seen.store(true, Ordering::Release));
        assert!(!token.is_cancelled());
        token.cancel();
        assert!(token.is_cancelled() && woken.swap(false, Ordering::AcqRel));
        token.forget();
        token.cancel();
        assert!(!woken.load(Ordering::Acquire));
    }

    #[test]
    fn the_time_counts_from_the_first_request() {
        let token = CancelToken::default();
        token.freed();
        assert_eq!(token.freed_after(), None, "nobody asked");
        token.flag().store(true, Ordering::Release);
        token.noticed();
        token.freed();
        let first = token.freed_after().unwrap();
        token.freed();
        assert_eq!(token.freed_after(), Some(first));
    }
}
