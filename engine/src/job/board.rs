//! The board of a job: its status, and a bounded queue of events that a file descriptor
//! makes pollable.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::events::{Event, Status};

/// Most events that wait to be taken. Beyond that the oldest are dropped: the status says where
/// the migration is.
const MAX_EVENTS: usize = 256;

/// What a job's threads tell its handle.
#[derive(Debug)]
pub(super) struct Board<S> {
    state: Mutex<State<S>>,
    changed: Condvar,
    /// Readable while an event waits to be taken.
    fd: OwnedFd,
}

#[derive(Debug)]
struct State<S> {
    status: Option<S>,
    events: VecDeque<Event>,
    ended: bool,
}

impl<S: Status> Board<S> {
    /// Nothing has happened yet.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            state: Mutex::new(State {
                status: None,
                events: VecDeque::new(),
                ended: false,
            }),
            changed: Condvar::new(),
            fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// The migration is where `status` says.
    pub(super) fn show(&self, status: &S) {
        let mut state = self.lock();
        let mut new = Vec::new();
        status.events(state.status.as_ref(), &mut new);
        state.status = Some(status.clone());
        for event in new {
            self.push(&mut state, event);
        }
    }

    /// The migration is over.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        self.push(&mut state, Event::Ended);
    }

    pub(super) fn status(&self) -> Option<S> {
        self.lock().status.clone()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// The oldest event that was not taken yet.
    pub(super) fn next(&self) -> Option<Event> {
        self.take(&mut self.lock())
    }

    /// As [`next`](Self::next), but waits until there is one, or `limit` has passed. After the
    /// last event, none comes.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Option<Event> {
        self.wait_until(limit, |state| match self.take(state) {
            Some(event) => Some(Some(event)),
            None => state.ended.then_some(None),
        })
        .flatten()
    }

    /// Waits until the migration is over, or `limit` has passed.
    pub(super) fn wait_end(&self, limit: Option<Duration>) -> bool {
        let ended = |state: &mut State<S>| state.ended.then_some(());
        self.wait_until(limit, ended).is_some()
    }

    /// Waits until `done` has an answer, or `limit` has passed.
    fn wait_until<R>(
        &self,
        limit: Option<Duration>,
        mut done: impl FnMut(&mut State<S>) -> Option<R>,
    ) -> Option<R> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.lock();
        loop {
            if let Some(answer) = done(&mut state) {
                return Some(answer);
            }
            state = match deadline {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn push(&self, state: &mut State<S>, event: Event) {
        if state.events.len() == MAX_EVENTS {
            state.events.pop_front();
        }
        state.events.push_back(event);
        // Any number but zero makes it readable, whatever the byte order. A write fails only when the
        // counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.fd, &1_u64.to_le_bytes());
        self.changed.notify_all();
    }

    fn take(&self, state: &mut State<S>) -> Option<Event> {
        let event = state.events.pop_front();
        if state.events.is_empty() {
            // Fails when it was read already.
            let _ = rustix::io::read(&self.fd, &mut [0_u8; 8]);
        }
        event
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        // Nothing that runs under the lock leaves a half-made change behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::job::JobEvents;
    use crate::migration::Phase;
    use std::sync::Arc;

    #[derive(Clone)]
    struct Count(u32);

    impl Status for Count {
        fn events(&self, before: Option<&Self>, events: &mut Vec<Event>) {
            if before.is_none_or(|before| before.0 != self.0) {
                events.push(Event::Phase(Phase::Precopy { round: self.0 }));
            }
        }
    }

    fn is_readable(board: &Board<Count>) -> bool {
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&board.fd, PollFlags::IN)];
        poll(&mut fds, Some(&at_once)).unwrap() == 1
    }

    #[test]
    fn the_descriptor_is_readable_while_an_event_waits() {
        let board = Board::new().unwrap();
        assert!(!is_readable(&board) && board.next().is_none());
        board.show(&Count(1));
        board.show(&Count(1));
        board.show(&Count(2));
        assert!(is_readable(&board));
        let round = |round| Some(Event::Phase(Phase::Precopy { round }));
        assert_eq!(board.next(), round(1));
        assert!(is_readable(&board));
        assert_eq!(board.wait(None), round(2));
        assert!(!is_readable(&board) && !board.has_ended());
        board.end();
        assert!(is_readable(&board) && board.has_ended());
        assert_eq!(board.wait(None), Some(Event::Ended));
        assert_eq!(board.wait(None), None);
    }

    #[test]
    fn events_that_nobody_takes_are_bounded_and_the_last_is_kept() {
        let board = Board::new().unwrap();
        for round in 0..10_000 {
            board.show(&Count(round));
        }
        board.end();
        let events: Vec<_> = std::iter::from_fn(|| board.next()).collect();
        assert_eq!(events.len(), MAX_EVENTS);
        assert_eq!(events.last(), Some(&Event::Ended));
    }

    #[test]
    fn a_wait_is_bounded_and_woken() {
        let board = Arc::new(Board::<Count>::new().unwrap());
        let events = JobEvents::new(Arc::clone(&board));
        assert_eq!(events.wait_event(Some(Duration::from_millis(1))), None);
        assert!(!events.wait_end(Some(Duration::from_millis(1))));
        let other = events.clone();
        let waiting = std::thread::spawn(move || other.wait_end(None));
        board.end();
        assert!(waiting.join().unwrap());
        assert_eq!(
            events.wait_event(None),
            Some(Event::Ended),
            "left to be taken"
        );
    }
}
