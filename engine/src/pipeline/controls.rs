//! Steering a migration that runs, from any thread.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cancel::CancelToken;
use crate::converge::Limits;
use crate::units::Rate;

/// What can be changed while a guest moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// When to throttle, stop, or give up.
    pub limits: Limits,
    /// Cap on the rate of everything sent; `None`: as fast as the link carries. It also holds
    /// during the downtime.
    pub bandwidth: Option<Rate>,
}

/// A handle on a migration. Clones steer the same one.
///
/// A change wakes the coordinator, which puts it into force at once: a cap before it does
/// anything else, limits by asking the policy. After the guest was stopped only the cap can be
/// changed; after the hand-over nothing can, and a change is kept without effect.
#[derive(Clone, Default)]
pub struct Controls {
    state: Arc<Mutex<State>>,
    cancel: CancelToken,
}

#[derive(Default)]
struct State {
    settings: Settings,
    /// How often they were changed.
    changes: u64,
    wake: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controls")
            .field("settings", &self.settings())
            .field("cancel", &self.cancel)
            .finish()
    }
}

impl Controls {
    /// A handle on a migration that is begun with `settings`, and that `cancel` ends.
    pub fn new(settings: Settings, cancel: CancelToken) -> Self {
        let state = State {
            settings,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            cancel,
        }
    }

    /// The settings as they were last asked for.
    pub fn settings(&self) -> Settings {
        self.lock().settings
    }

    /// Changes them: others that change something at the same time do so before or after.
    pub fn change<R>(&self, change: impl FnOnce(&mut Settings) -> R) -> R {
        let (result, wake) = {
            let mut state = self.lock();
            let mut settings = state.settings;
            let result = change(&mut settings);
            if settings == state.settings {
                return result;
            }
            state.settings = settings;
            state.changes += 1;
            (result, state.wake.clone())
        };
        if let Some(wake) = wake {
            wake();
        }
        result
    }

    /// Ends the migration: the guest is at full speed on the source within 100 ms, unless it
    /// was handed over already.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// What ends the migration.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    /// Calls `wake` at every change, instead of what was to be called before.
    pub(super) fn on_change(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.lock().wake = Some(Arc::new(wake));
    }

    /// Nobody waits for changes any more.
    pub(super) fn forget(&self) {
        self.lock().wake = None;
        self.cancel.forget();
    }

    /// The settings, if they were changed more than `seen` times; counts `seen` up to date.
    pub(super) fn news(&self, seen: &mut u64) -> Option<Settings> {
        let state = self.lock();
        let is_new = state.changes != std::mem::replace(seen, state.changes);
        is_new.then_some(state.settings)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A change that panicked has changed nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn only_a_change_is_news_and_wakes() {
        let controls = Controls::default();
        let woken = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&woken);
        controls.on_change(move || {
            count.fetch_add(1, Ordering::AcqRel);
        });
        let mut seen = 0;
        assert_eq!(controls.news(&mut seen), None);
        controls.change(|_| ());
        assert_eq!(woken.load(Ordering::Acquire), 0);
        let changed = Settings {
            bandwidth: Some(Rate(1)),
            ..Settings::default()
        };
        controls.change(|settings| *settings = changed);
        controls.change(|settings| settings.bandwidth = Some(Rate(1)));
        assert_eq!(woken.load(Ordering::Acquire), 1);
        assert_eq!(controls.news(&mut seen), Some(changed));
        assert_eq!(controls.news(&mut seen), None);
        assert_eq!(controls.settings(), changed);
    }
}
