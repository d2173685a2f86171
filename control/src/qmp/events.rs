//! Readers of events, each with its own position.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::QmpError;
use super::event::Event;
use super::inbox::Inbox;

/// A reader of events, from the moment it was made.
///
/// Each reader sees every event, in QEMU's order, whatever other readers do.
#[derive(Clone, Debug)]
pub struct Events {
    pub(super) inbox: Arc<Inbox>,
    /// Sequence number of the next event to look at.
    pub(super) next: u64,
}

impl Events {
    /// Passes over events until `pick` makes something of one; `what` names it for the error.
    ///
    /// Events that came before the connection ended are still seen.
    ///
    /// # Errors
    /// When `limit` has passed, the connection is lost, or events had to be dropped.
    pub fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut pick: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T, QmpError> {
        let deadline = Instant::now() + limit;
        let mut state = self.inbox.lock();
        loop {
            let seen = seen_of(&mut self.next, state.first_event)?;
            for event in state.events.iter().skip(seen) {
                self.next += 1;
                if let Some(found) = pick(event) {
                    return Ok(found);
                }
            }
            if let Some(end) = &state.end {
                return Err(self.inbox.broken(end));
            }
            state = self
                .inbox
                .wait(state, deadline)
                .ok_or_else(|| QmpError::Timeout {
                    address: self.inbox.address.clone(),
                    what: what.to_owned(),
                    waited: limit,
                })?;
        }
    }

    /// The next event that has come already. Does not wait; `None` also when the connection is
    /// lost and all its events were seen.
    ///
    /// # Errors
    /// When events had to be dropped; the next call goes on after them.
    pub fn next_so_far(&mut self) -> Result<Option<Event>, QmpError> {
        let state = self.inbox.lock();
        let seen = seen_of(&mut self.next, state.first_event)?;
        let event = state.events.get(seen).cloned();
        self.next += u64::from(event.is_some());
        Ok(event)
    }

    /// Passes over all events that have come so far.
    pub fn skip_to_now(&mut self) {
        let state = self.inbox.lock();
        self.next = state.first_event + state.events.len() as u64;
    }
}

/// How many of the events kept, the first of which has the number `oldest`, a reader has passed
/// whose next one has the number `next`.
///
/// # Errors
/// When events it has not seen had to be dropped; `next` is then the oldest one kept.
fn seen_of(next: &mut u64, oldest: u64) -> Result<usize, QmpError> {
    let lost = oldest.saturating_sub(*next);
    if lost > 0 {
        *next = oldest;
        return Err(QmpError::EventsLost { lost });
    }
    Ok(usize::try_from(*next - oldest).unwrap_or(usize::MAX))
}
