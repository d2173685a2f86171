//! The handle by which a job's events and status are taken, apart from the job itself.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::board::Board;
use super::events::{Event, Status};

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
