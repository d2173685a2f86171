//! What clients may cost, together and each. Those of the read-only socket, which any user of this host
//! can reach, have a part of it, so that they keep nobody else out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::Limits;

/// The limits, and how much of them is used.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: Limits,
    /// Of all doors together.
    clients: AtomicUsize,
    bytes: AtomicUsize,
    read_only: Door,
    others: Door,
}

/// Clients that have come in by a kind of door, and what they may have.
#[derive(Debug)]
struct Door {
    clients: Count,
    unopened: Count,
    bytes: Count,
}

#[derive(Debug)]
struct Count {
    used: AtomicUsize,
    limit: usize,
}

impl Count {
    const fn new(limit: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            limit,
        }
    }

    fn take_one(&self) -> bool {
        take_one(&self.used, self.limit)
    }

    fn give_one(&self) {
        self.used.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Door {
    const fn new(limits: &Limits, clients: usize, bytes: usize) -> Self {
        Self {
            clients: Count::new(clients),
            unopened: Count::new(limits.unopened_clients),
            bytes: Count::new(bytes),
        }
    }
}

/// One client's part, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    limiter: Arc<Limiter>,
    read_only: bool,
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
    pub(super) fn new(limits: Limits) -> Self {
        let half_of_clients = (limits.clients / 2).max(1);
        Self {
            clients: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            read_only: Door::new(&limits, half_of_clients, limits.memory_bytes / 2),
            others: Door::new(&limits, limits.clients, limits.memory_bytes),
            limits,
        }
    }

    const fn door(&self, read_only: bool) -> &Door {
        if read_only {
            &self.read_only
        } else {
            &self.others
        }
    }

    /// Room for another client, if there is; `read_only` for one that comes by the read-only socket.
    pub(super) fn admit(self: &Arc<Self>, read_only: bool) -> Option<Slot> {
        let door = self.door(read_only);
        if !door.clients.take_one() {
            return None;
        }
        if !door.unopened.take_one() {
            door.clients.give_one();
            return None;
        }
        if !take_one(&self.clients, self.limits.clients) {
            door.unopened.give_one();
            door.clients.give_one();
            return None;
        }
        Some(Slot {
            limiter: Arc::clone(self),
            read_only,
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
            self.limiter.door(self.read_only).unopened.give_one();
        }
    }

    pub(super) const fn is_opened(&self) -> bool {
        self.opened
    }

    /// The client now holds so many bytes; whether all clients together may, and those of its door.
    pub(super) fn holds(&mut self, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let turned_into = |all: &AtomicUsize| {
            if bytes >= before {
                all.fetch_add(bytes - before, Ordering::AcqRel) + (bytes - before)
            } else {
                all.fetch_sub(before - bytes, Ordering::AcqRel) - (before - bytes)
            }
        };
        let limiter = &self.limiter;
        let of_door = &limiter.door(self.read_only).bytes;
        let (door, all) = (turned_into(&of_door.used), turned_into(&limiter.bytes));
        door <= of_door.limit && all <= limiter.limits.memory_bytes
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.opened();
        self.holds(0);
        self.limiter.clients.fetch_sub(1, Ordering::AcqRel);
        self.limiter.door(self.read_only).clients.give_one();
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
        let first = limiter.admit(false).unwrap();
        let _second = limiter.admit(false).unwrap();
        assert!(limiter.admit(false).is_none());
        drop(first);
        assert!(limiter.admit(false).is_some());
    }

    #[test]
    fn those_that_have_opened_make_room_for_others_that_have_not() {
        let limiter = limiter(9, 1);
        let mut first = limiter.admit(false).unwrap();
        assert!(limiter.admit(false).is_none());
        first.opened();
        first.opened();
        let _second = limiter.admit(false).unwrap();
        assert!(limiter.admit(false).is_none());
    }

    #[test]
    fn those_that_may_only_look_keep_nobody_out() {
        let limiter = limiter(4, 2);
        let mut looking: Vec<Slot> = (0..2).map(|_| limiter.admit(true).unwrap()).collect();
        assert!(limiter.admit(true).is_none());
        looking.iter_mut().for_each(Slot::opened);
        assert!(limiter.admit(true).is_none(), "half of all");
        let others: Vec<Slot> = (0..2).map(|_| limiter.admit(false).unwrap()).collect();
        assert!(limiter.admit(false).is_none());
        assert!(looking[0].holds(50) && !looking[1].holds(1));
        drop(looking);
        assert!(limiter.admit(true).is_some());
        drop(others);
        assert!(limiter.admit(false).unwrap().holds(100));
    }

    #[test]
    fn bytes_are_counted_over_all_clients() {
        let limiter = limiter(9, 9);
        let (mut a, mut b) = (limiter.admit(false).unwrap(), limiter.admit(false).unwrap());
        assert!(a.holds(60) && b.holds(40));
        assert!(!b.holds(41));
        assert!(b.holds(40));
        drop(a);
        assert!(b.holds(100));
    }
}
