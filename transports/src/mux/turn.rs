//! Whose turn it is to write to the byte stream: one thread at a time, control before data.
//!
//! Frames without a body (credit, close) wait for nobody: whoever writes takes them along.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::frame::Head;

/// How much a writer is in a hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    Control,
    Data,
}

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    /// Urgent writers that wait.
    urgent: usize,
    /// Heads that the writer is to take along.
    owed: Vec<Head>,
}

/// The right to write.
#[derive(Debug, Default)]
pub(super) struct Turn {
    state: Mutex<State>,
    freed: Condvar,
}

impl Turn {
    /// Waits for the turn. It must be [passed](Self::pass) on.
    pub(super) fn take(&self, urgency: Urgency) {
        let mut state = self.lock();
        let is_urgent = urgency == Urgency::Control;
        state.urgent += usize::from(is_urgent);
        while state.is_taken || (!is_urgent && state.urgent > 0) {
            state = self
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.urgent -= usize::from(is_urgent);
        state.is_taken = true;
    }

    /// Leaves `head` to whoever writes; `true` if nobody does, and it is the caller's turn, who
    /// passes it on.
    pub(super) fn leave(&self, head: Head) -> bool {
        let mut state = self.lock();
        state.owed.push(head);
        !std::mem::replace(&mut state.is_taken, true)
    }

    /// Passes the turn on, unless there are heads to be written first: into `owed`, which is empty.
    /// Whether it was passed on.
    pub(super) fn pass(&self, owed: &mut Vec<Head>) -> bool {
        let mut state = self.lock();
        if !state.owed.is_empty() {
            std::mem::swap(&mut state.owed, owed);
            return false;
        }
        state.is_taken = false;
        drop(state);
        self.freed.notify_all();
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn control_goes_first_and_heads_are_taken_along() {
        let turn = Arc::new(Turn::default());
        turn.take(Urgency::Data);
        let (said, order) = mpsc::channel();
        let wait_for = |urgency| {
            let (turn, said) = (Arc::clone(&turn), said.clone());
            thread::spawn(move || {
                turn.take(urgency);
                said.send(urgency).unwrap();
                assert!(turn.pass(&mut Vec::new()));
            })
        };
        let data = wait_for(Urgency::Data);
        let control = wait_for(Urgency::Control);
        // Both wait, as nothing can be said of when; control is known to once it is counted.
        while turn.lock().urgent == 0 {
            thread::yield_now();
        }
        assert!(!turn.leave([7; 8]), "somebody writes");
        let mut owed = Vec::new();
        assert!(!turn.pass(&mut owed));
        assert_eq!(owed, [[7; 8]]);
        owed.clear();
        assert!(turn.pass(&mut owed) && owed.is_empty());
        assert_eq!(order.recv().unwrap(), Urgency::Control);
        assert_eq!(order.recv().unwrap(), Urgency::Data);
        data.join().unwrap();
        control.join().unwrap();
        assert!(turn.leave([8; 8]), "nobody writes");
    }
}
