//! Events of a job, and the handle that they are taken by.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::board::Board;
use crate::converge::ThrottleShare;
use crate::migration::{Phase, SourceStatus, TargetStatus};

/// Something that happened in a migration.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The migration entered a phase. Each round of precopy is one.
    Phase(Phase),
    /// The guest is kept from running for another share of its time.
    Throttled(ThrottleShare),
    /// On the target: the source is lost during the hand-over, and waited for.
    SourceLost,
    /// On the target: the source that was lost is back.
    SourceBack,
    /// The migration is over: [`Job::wait`](super::Job::wait) says how. The last event.
    Ended,
}

/// The status of one side, from which events are derived.
pub trait Status: Clone + Send + 'static {
    /// Adds what has happened since `before` to `events`.
    fn events(&self, before: Option<&Self>, events: &mut Vec<Event>);
}

impl Status for SourceStatus {
    fn events(&self, before: Option<&Self>, events: &mut Vec<Event>) {
        if before.is_none_or(|before| before.phase != self.phase) {
            events.push(Event::Phase(self.phase));
        }
        if self.throttle != before.map_or(ThrottleShare::NONE, |before| before.throttle) {
            events.push(Event::Throttled(self.throttle));
        }
    }
}

impl Status for TargetStatus {
    fn events(&self, before: Option<&Self>, events: &mut Vec<Event>) {
        if before.is_none_or(|before| before.phase != self.phase) {
            events.push(Event::Phase(self.phase));
        }
        let was_lost = before.is_some_and(|before| before.source_lost);
        match (was_lost, self.source_lost) {
            (false, true) => events.push(Event::SourceLost),
            (true, false) => events.push(Event::SourceBack),
            _ => {}
        }
    }
}

/// What a job tells: its events, its status, and that it is over.
///
/// Clones share one queue: each event is taken by one of them. It may outlive the [`Job`](super::Job),
/// for an embedder whose event loop keeps on when somebody else waits for the end.
#[derive(Debug)]
pub struct JobEvents<S>(Arc<Board<S>>);

impl<S> Clone for JobEvents<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Status> JobEvents<S> {
    pub(super) fn new(board: Arc<Board<S>>) -> Self {
        Self(board)
    }

    /// The oldest event that was not taken yet; does not wait.
    pub fn next_event(&self) -> Option<Event> {
        self.0.next()
    }

    /// Waits for the next event, for at most `limit` if there is one. `None` after
    /// [`Event::Ended`], and when the time is up.
    pub fn wait_event(&self, limit: Option<Duration>) -> Option<Event> {
        self.0.wait(limit)
    }

    /// Waits until the migration is over, for at most `limit` if there is one, and leaves the events
    /// to others. Returns whether it is over.
    pub fn wait_end(&self, limit: Option<Duration>) -> bool {
        self.0.wait_end(limit)
    }

    /// Where the migration is; `None` before it has begun.
    pub fn status(&self) -> Option<S> {
        self.0.status()
    }

    /// Whether the migration is over.
    pub fn has_ended(&self) -> bool {
        self.0.has_ended()
    }
}

impl<S: Status> AsFd for JobEvents<S> {
    /// A descriptor that is readable while an event waits to be taken, for poll(2) or epoll(7).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
