//! The calls of one connection: some run, each with a thread of its own, and some wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagelift_rpc::message::{HEADER_BYTES, Message};
use tracing::warn;

use super::Outbox;
use crate::daemon::Daemon;
use crate::dispatch::Handled;
use crate::session::Session;

/// Calls, and what answers them.
#[derive(Debug)]
pub(super) struct Calls {
    daemon: Arc<Daemon>,
    session: Arc<Session>,
    outbox: Arc<Outbox>,
    running: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Message>,
    /// Of calls that wait or run.
    bytes: usize,
    threads: usize,
    ended: bool,
}

impl Calls {
    /// Those of `session`, of which at most `running` run at the same time.
    pub(super) fn new(
        daemon: Arc<Daemon>,
        session: Arc<Session>,
        outbox: Arc<Outbox>,
        running: usize,
    ) -> Self {
        Self {
            daemon,
            session,
            outbox,
            running,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls wait, and the bytes of those that wait or run.
    pub(super) fn held(&self) -> (usize, usize) {
        let state = self.state();
        (state.waiting.len(), state.bytes)
    }

    /// Answers a call: at once if that cannot take long, else in a thread.
    pub(super) fn take(self: &Arc<Self>, call: Message) {
        if self.daemon.dispatcher().is_quick(&call.header) {
            // By the connection's own thread, which must not wait for room that only it makes.
            let Handled { answer, close } = self.handle(&call);
            self.outbox.post(&answer);
            if close {
                self.outbox.close_when_sent();
            }
            return;
        }
        let mut state = self.state();
        state.bytes += HEADER_BYTES + call.body.len();
        state.waiting.push_back(call);
        if state.threads == self.running {
            return;
        }
        state.threads += 1;
        drop(state);
        let this = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("call".into())
            .spawn(move || this.work());
        if let Err(error) = spawned {
            warn!(%error, "cannot run a call: the connection is closed");
            self.state().threads -= 1;
            self.outbox.close();
        }
    }

    /// Answers calls until none waits.
    fn work(&self) {
        loop {
            let mut state = self.state();
            let next = state.waiting.pop_front();
            let Some(call) = next.filter(|_| !state.ended) else {
                state.threads -= 1;
                return;
            };
            drop(state);
            // There may be room to read on.
            self.outbox.nudge();
            self.answer(&call);
            self.state().bytes -= HEADER_BYTES + call.body.len();
            self.outbox.nudge();
        }
    }

    fn handle(&self, call: &Message) -> Handled {
        let Self {
            daemon, session, ..
        } = self;
        daemon.dispatcher().handle(daemon, session, call)
    }

    fn answer(&self, call: &Message) {
        let Handled { answer, close } = self.handle(call);
        if !self.outbox.answer(&answer) {
            warn!(header = ?call.header, "an answer is too long: the connection is closed");
            self.outbox.close();
        } else if close {
            self.outbox.close_when_sent();
        }
    }

    /// Calls that wait are not answered any more.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        let waited = std::mem::take(&mut state.waiting);
        let bytes = waited.iter().map(|call| HEADER_BYTES + call.body.len());
        state.bytes -= bytes.sum::<usize>();
    }
}
