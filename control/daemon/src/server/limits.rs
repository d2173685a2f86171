//! What clients may cost, together and each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::Limits;

/// The limits, and how much of them is used.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: Limits,
    clients: AtomicUsize,
    unopened: AtomicUsize,
    bytes: AtomicUsize,
}

/// One client's part, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    limiter: Arc<Limiter>,
    opened: bool,
    bytes: usize,
}

fn take_one(count: &AtomicUsize, limit: usize) -> bool {
    let more = |used| (used < limit).then_some(used + 1);
    count
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
        .is_ok()
}

impl Limiter {
    pub(super) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            clients: AtomicUsize::new(0),
            unopened: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Room for another client, if there is.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Slot> {
        if !take_one(&self.clients, self.limits.clients) {
            return None;
        }
        if !take_one(&self.unopened, self.limits.unopened_clients) {
            self.clients.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Slot {
            limiter: Arc::clone(self),
            opened: false,
            bytes: 0,
        })
    }
}

impl Slot {
    pub(super) fn limits(&self) -> &Limits {
        &self.limiter.limits
    }

    /// The client has opened a driver.
    pub(super) fn opened(&mut self) {
        if !std::mem::replace(&mut self.opened, true) {
            self.limiter.unopened.fetch_sub(1, Ordering::AcqRel);
        }
    }

    pub(super) const fn is_opened(&self) -> bool {
        self.opened
    }

    /// The client now holds so many bytes; whether all clients together may.
    pub(super) fn holds(&mut self, bytes: usize) -> bool {
        let all = &self.limiter.bytes;
        let before = if bytes >= self.bytes {
            all.fetch_add(bytes - self.bytes, Ordering::AcqRel) + (bytes - self.bytes)
        } else {
            all.fetch_sub(self.bytes - bytes, Ordering::AcqRel) - (self.bytes - bytes)
        };
        self.bytes = bytes;
        before <= self.limiter.limits.memory_bytes
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.opened();
        self.holds(0);
        self.limiter.clients.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(clients: usize, unopened_clients: usize) -> Arc<Limiter> {
        Arc::new(Limiter::new(Limits {
            clients,
            unopened_clients,
            memory_bytes: 100,
            ..Limits::default()
        }))
    }

    #[test]
    fn clients_are_counted_until_they_go() {
        let limiter = limiter(2, 2);
        let first = limiter.admit().unwrap();
        let _second = limiter.admit().unwrap();
        assert!(limiter.admit().is_none());
        drop(first);
        assert!(limiter.admit().is_some());
    }

    #[test]
    fn those_that_have_opened_make_room_for_others_that_have_not() {
        let limiter = limiter(9, 1);
        let mut first = limiter.admit().unwrap();
        assert!(limiter.admit().is_none());
        first.opened();
        first.opened();
        let _second = limiter.admit().unwrap();
        assert!(limiter.admit().is_none());
    }

    #[test]
    fn bytes_are_counted_over_all_clients() {
        let limiter = limiter(9, 9);
        let (mut a, mut b) = (limiter.admit().unwrap(), limiter.admit().unwrap());
        assert!(a.holds(60) && b.holds(40));
        assert!(!b.holds(41));
        assert!(b.holds(40));
        drop(a);
        assert!(b.holds(100));
    }
}
