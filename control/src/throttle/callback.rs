//! Throttling by a hypervisor that embeds pagelift, by whatever means it has.

use std::error::Error;
use std::fmt;

use super::{Throttle, ThrottleError, ThrottlePlan};

/// What [`CallbackThrottle`] calls: with a plan, or with `None` to let the guest run.
pub type Callback =
    Box<dyn FnMut(Option<&ThrottlePlan>) -> Result<(), Box<dyn Error + Send + Sync>> + Send>;

/// Hands plans and releases to the embedder. Dropped with a plan in force, it releases. If the
/// process dies, the guest that it embeds does too.
pub struct CallbackThrottle {
    callback: Callback,
    is_active: bool,
}

impl CallbackThrottle {
    /// Throttles by `callback`.
    pub fn new(callback: Callback) -> Self {
        Self {
            callback,
            is_active: false,
        }
    }
}

impl Throttle for CallbackThrottle {
    fn apply(&mut self, plan: &ThrottlePlan) -> Result<(), ThrottleError> {
        // Also if it fails: it may have done half of it.
        self.is_active = true;
        (self.callback)(Some(plan)).map_err(ThrottleError::Callback)
    }

    fn release(&mut self) {
        // A release that fails is tried again by the next one.
        if self.is_active && (self.callback)(None).is_ok() {
            self.is_active = false;
        }
    }
}

impl Drop for CallbackThrottle {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for CallbackThrottle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackThrottle")
            .field("is_active", &self.is_active)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::throttle::{Permille, Shares};

    #[test]
    fn every_plan_is_handed_on_and_released_once() {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        let mut throttle = CallbackThrottle::new(Box::new(move |plan| {
            seen.lock().unwrap().push(plan.cloned());
            match plan {
                Some(plan) if plan.max_share() == Permille::MAX => Err("too much".into()),
                _ => Ok(()),
            }
        }));
        let plan = |share| ThrottlePlan::new(Shares::All(share), Duration::from_millis(5));
        let (some, all) = (plan(Permille::new(100).unwrap()), plan(Permille::MAX));
        throttle.release();
        throttle.apply(&some).unwrap();
        throttle.release();
        throttle.release();
        let error = throttle.apply(&all).unwrap_err();
        assert_eq!(error.to_string(), "throttling by the embedder: too much");
        drop(throttle);
        let expected = [Some(some), None, Some(all), None];
        assert_eq!(*calls.lock().unwrap(), expected);
    }
}
