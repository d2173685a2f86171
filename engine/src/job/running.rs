//! A migration that runs, as its embedder holds it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::StartError;
use super::board::Board;
use super::events::{Event, Status};
use super::handle::JobEvents;
use crate::migration::{Failure, Report, SourceStatus, TargetStatus};
use crate::pipeline::{Controls, Deltas, Received, Settings};
use crate::wire::SessionId;

/// What a completed migration ends in, on either side.
pub trait Completed: Send + 'static {
    /// What it says of itself while it runs.
    type Status: Status;
}

impl Completed for Report {
    type Status = SourceStatus;
}

impl Completed for Received {
    type Status = TargetStatus;
}

/// A migration that runs in threads of its own.
///
/// Methods may be called from any thread. A job that is dropped is cancelled and waited for: the
/// guest is then where [`wait`](Self::wait) would have said.
#[derive(Debug)]
pub struct Job<G, R: Completed> {
    events: JobEvents<R::Status>,
    controls: Controls,
    deltas: Option<Arc<Deltas>>,
    id: Option<SessionId>,
    thread: Option<JoinHandle<(Result<R, Failure>, G)>>,
}

/// A migration that has ended.
#[derive(Debug)]
pub struct Ended<G, R> {
    /// How it ended. A failure says where the guest is.
    pub result: Result<R, Failure>,
    /// The guest, as the embedder gave it.
    pub guest: G,
}

impl<G: Send + 'static, R: Completed> Job<G, R> {
    /// Runs `migrate` in a thread. It is given what to tell of its status.
    pub(super) fn start(
        controls: Controls,
        deltas: Option<Arc<Deltas>>,
        id: Option<SessionId>,
        migrate: impl FnOnce(&mut dyn FnMut(&R::Status)) -> (Result<R, Failure>, G) + Send + 'static,
    ) -> Result<Self, StartError> {
        let refused = |what| move |source| StartError::Kernel { what, source };
        let board = Arc::new(Board::new().map_err(refused("an eventfd"))?);
        let shown = Arc::clone(&board);
        let thread = thread::Builder::new()
            .name("pagelift-job".into())
            .spawn(move || {
                let _end = EndOnDrop(&shown);
                migrate(&mut |status| shown.show(status))
            })
            .map_err(refused("a thread"))?;
        Ok(Self {
            events: JobEvents::new(board),
            controls,
            deltas,
            id,
            thread: Some(thread),
        })
    }

    /// The oldest event that was not taken yet; does not wait.
    pub fn next_event(&self) -> Option<Event> {
        self.events.next_event()
    }

    /// Waits for the next event. `None` after [`Event::Ended`].
    pub fn wait_event(&self) -> Option<Event> {
        self.events.wait_event(None)
    }

    /// Waits for the next event for at most `limit`.
    pub fn wait_event_for(&self, limit: Duration) -> Option<Event> {
        self.events.wait_event(Some(limit))
    }

    /// Where the migration is; `None` before it has begun.
    pub fn status(&self) -> Option<R::Status> {
        self.events.status()
    }

    /// Whether the migration is over.
    pub fn has_ended(&self) -> bool {
        self.events.has_ended()
    }

    /// What it tells, as a handle that others may keep.
    pub fn events(&self) -> &JobEvents<R::Status> {
        &self.events
    }

    /// Changes limits while the guest moves. On a target nothing can be changed.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        self.controls.change(change);
    }

    /// A handle by which others change or cancel the same migration.
    pub fn controls(&self) -> &Controls {
        &self.controls
    }

    /// The name of the migration: a random number. The target learns it from the source.
    pub fn id(&self) -> Option<SessionId> {
        self.id
    }

    /// The contents that the source makes deltas against, if it does.
    pub fn deltas(&self) -> Option<&Arc<Deltas>> {
        self.deltas.as_ref()
    }

    /// Ends the migration: the guest is at full speed on the source within 100 ms, unless it was
    /// handed over already.
    pub fn cancel(&self) {
        self.controls.cancel();
    }

    /// Waits until the migration is over.
    ///
    /// # Panics
    /// If a method of the guest has panicked.
    pub fn wait(mut self) -> Ended<G, R> {
        let thread = self.thread.take().expect("only `wait` and `drop` take it");
        let (result, guest) = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ended { result, guest }
    }
}

impl<G, R: Completed> AsFd for Job<G, R> {
    /// A descriptor that is readable while an event waits to be taken, for poll(2) or epoll(7).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl<G, R: Completed> AsRawFd for Job<G, R> {
    fn as_raw_fd(&self) -> RawFd {
        self.events.as_fd().as_raw_fd()
    }
}

impl<G, R: Completed> Drop for Job<G, R> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.controls.cancel();
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Says that the migration is over, also when the thread panics.
struct EndOnDrop<'a, S: Status>(&'a Board<S>);

impl<S: Status> Drop for EndOnDrop<'_, S> {
    fn drop(&mut self) {
        self.0.end();
    }
}
