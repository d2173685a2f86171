//! The open connections of a target: those of its migration, and strangers.
//!
//! A stranger has not said yet what it is for. Strangers have a budget of their own, so that they take
//! nothing from the migration: at most [`MAX_STRANGERS`] at a time, each for [`FIRST_FRAME`] by the
//! clock from when it was accepted, whatever it sends meanwhile. When there are too many, one makes
//! room for the newcomer: the oldest of the host that has most. So an honest source, which introduces
//! itself in milliseconds, gets in however many hold connections open, unless they open them faster
//! than that.

use std::cmp::Reverse;
use std::time::Duration;

use crate::transport::Closer;
use crate::units::Instant;
use crate::wire::MAX_CHANNELS;

/// How long a new connection may take to say what it is, its transport's handshake included.
pub(super) const FIRST_FRAME: Duration = Duration::from_secs(10);

/// Most connections at a time that have not said what they are.
pub(crate) const MAX_STRANGERS: usize = 64;

/// Most connections of the migration: all channels, control, and a control connection that takes its
/// place before it has gone.
const MAX_KNOWN: usize = MAX_CHANNELS as usize + 2;

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Vec<Open>,
    next_number: u64,
}

#[derive(Debug)]
struct Open {
    /// Counted in the order in which they came.
    number: u64,
    closer: Closer,
    /// For a stranger.
    stranger: Option<Stranger>,
}

#[derive(Debug)]
struct Stranger {
    /// By when it must have said what it is.
    until: Instant,
    host: String,
}

impl Connections {
    /// Takes in a stranger from `address`, whose port does not matter; gives it a number.
    pub(super) fn take_in(&mut self, now: Instant, address: &str, closer: Closer) -> u64 {
        self.close_overdue(now);
        if self.strangers().count() >= MAX_STRANGERS {
            self.close_a_stranger();
        }
        let number = self.next_number;
        self.next_number += 1;
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        self.open.push(Open {
            number,
            closer,
            stranger: Some(Stranger {
                until: now.after(FIRST_FRAME),
                host: host.to_owned(),
            }),
        });
        number
    }

    /// A stranger belongs to the migration. `false`: it was closed, or there are too many.
    pub(super) fn known(&mut self, number: u64) -> bool {
        let known = self.open.iter().filter(|open| open.stranger.is_none());
        if known.count() >= MAX_KNOWN {
            return false;
        }
        let open = self.open.iter_mut().find(|open| open.number == number);
        open.map(|open| open.stranger = None).is_some()
    }

    /// Closes strangers that have taken too long.
    pub(super) fn close_overdue(&mut self, now: Instant) {
        let is_overdue = |open: &mut Open| {
            let stranger = open.stranger.as_ref();
            stranger.is_some_and(|stranger| stranger.until <= now)
        };
        for open in self.open.extract_if(.., is_overdue) {
            open.closer.close();
        }
    }

    /// Closes the oldest stranger of the host that has most of them; whether there was one.
    pub(super) fn close_a_stranger(&mut self) -> bool {
        let of = |host: &str| self.strangers().filter(|(_, other)| *other == host).count();
        let worst = self
            .strangers()
            .max_by_key(|(number, host)| (of(host), Reverse(*number)));
        let worst = worst.map(|(number, _)| number);
        worst.is_some_and(|number| self.close(number))
    }

    /// Closes a connection; whether it was open.
    pub(super) fn close(&mut self, number: u64) -> bool {
        let at = self.open.iter().position(|open| open.number == number);
        let gone = at.map(|at| self.open.swap_remove(at));
        gone.map(|open| open.closer.close()).is_some()
    }

    /// Whether a connection was not closed.
    pub(super) fn is_open(&self, number: u64) -> bool {
        self.open.iter().any(|open| open.number == number)
    }

    /// Closes all.
    pub(super) fn close_all(&mut self) {
        for open in self.open.drain(..) {
            open.closer.close();
        }
    }

    fn strangers(&self) -> impl Iterator<Item = (u64, &str)> {
        self.open.iter().filter_map(|open| {
            let stranger = open.stranger.as_ref()?;
            Some((open.number, stranger.host.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(1_000_000_000);

    fn come(connections: &mut Connections, now: Instant, host: &str) -> u64 {
        let address = format!("{host}:1234");
        connections.take_in(now, &address, Closer::new(|| ()))
    }

    #[test]
    fn strangers_make_room_and_the_migration_does_not() {
        let mut connections = Connections::default();
        let control = come(&mut connections, START, "10.0.0.1");
        assert!(connections.known(control));
        let many: Vec<_> = (0..MAX_STRANGERS as u64)
            .map(|_| come(&mut connections, START, "10.6.6.6"))
            .collect();
        let honest = come(&mut connections, START, "10.0.0.1");
        assert!(!connections.is_open(many[0]), "the oldest of the crowd");
        for _ in 0..500 {
            come(&mut connections, START, "10.6.6.6");
        }
        assert!(connections.is_open(honest), "alone from its host");
        assert!(connections.is_open(control) && connections.known(honest));
        assert_eq!(connections.strangers().count(), MAX_STRANGERS - 1);
        assert!(!connections.known(many[0]), "it is closed");
    }

    #[test]
    fn a_stranger_has_its_time_by_the_clock() {
        let mut connections = Connections::default();
        let [slow, known] = [0; 2].map(|_| come(&mut connections, START, "10.0.0.1"));
        assert!(connections.known(known));
        let later = START.after(FIRST_FRAME - Duration::from_nanos(1));
        connections.close_overdue(later);
        assert!(connections.is_open(slow));
        connections.close_overdue(START.after(FIRST_FRAME));
        assert!(!connections.is_open(slow) && connections.is_open(known));
    }

    #[test]
    fn a_migration_has_no_more_connections_than_it_can_need() {
        let mut connections = Connections::default();
        for at in 0..MAX_KNOWN + 3 {
            let number = come(&mut connections, START, "10.0.0.1");
            assert_eq!(connections.known(number), at < MAX_KNOWN);
        }
        connections.close_all();
        assert!(!connections.close_a_stranger());
    }
}
