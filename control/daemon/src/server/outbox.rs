//! Messages on their way to a client.
//!
//! Calls that run in threads put their answers here and wait while there is no room. What cannot wait
//! (events, and what the connection's own thread answers) does not, and a client that does not take it
//! loses its connection. The connection's thread takes the bytes out.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use pagelift_rpc::message::Message;
use tracing::warn;

use super::stream::Wake;

/// Bytes of answers that may lie here before others wait.
const ANSWER_BYTES: usize = 1 << 20;
/// Bytes of what cannot wait that may lie here.
const POSTED_BYTES: usize = 2 << 20;

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    room: Condvar,
    wake: Wake,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<(Kind, Vec<u8>)>,
    answers: usize,
    posted: usize,
    end: End,
}

/// Whether what puts a message here can wait for room.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Answer,
    Posted,
}

impl Queue {
    const fn bytes(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Answer => &mut self.answers,
            Kind::Posted => &mut self.posted,
        }
    }
}

/// Whether anything more is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    #[default]
    Open,
    /// The connection ends when all is sent that is here.
    Closing,
    /// It ends now.
    Closed,
}

impl Outbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            queue: Mutex::default(),
            room: Condvar::new(),
            wake: Wake::new()?,
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an answer, once there is room; whether it was not too long.
    pub(super) fn answer(&self, message: &Message) -> bool {
        let Ok(bytes) = message.encode() else {
            return false;
        };
        let mut queue = self.queue();
        while queue.answers > ANSWER_BYTES && queue.end == End::Open {
            queue = self
                .room
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.put(queue, Kind::Answer, bytes);
        true
    }

    /// Sends a message without waiting; closes the connection when there is no room.
    pub(crate) fn post(&self, message: &Message) {
        let Ok(bytes) = message.encode() else {
            warn!(header = ?message.header, "a message that is too long was not sent");
            return;
        };
        let mut queue = self.queue();
        if queue.posted > POSTED_BYTES {
            queue.end = End::Closed;
            drop(queue);
            self.wake.wake();
            self.room.notify_all();
        } else {
            self.put(queue, Kind::Posted, bytes);
        }
    }

    fn put(&self, mut queue: MutexGuard<'_, Queue>, kind: Kind, bytes: Vec<u8>) {
        if queue.end == End::Open {
            *queue.bytes(kind) += bytes.len();
            queue.messages.push_back((kind, bytes));
            drop(queue);
            self.wake.wake();
        }
    }

    /// The connection ends once what is here is sent.
    pub(super) fn close_when_sent(&self) {
        let mut queue = self.queue();
        if queue.end == End::Open {
            queue.end = End::Closing;
        }
        drop(queue);
        self.wake.wake();
        self.room.notify_all();
    }

    /// The connection ends.
    pub(crate) fn close(&self) {
        self.queue().end = End::Closed;
        self.wake.wake();
        self.room.notify_all();
    }

    /// The next message, if there is one; and whether the connection goes on.
    pub(super) fn next(&self) -> (Option<Vec<u8>>, End) {
        let mut queue = self.queue();
        let message = queue.messages.pop_front().map(|(kind, bytes)| {
            *queue.bytes(kind) -= bytes.len();
            bytes
        });
        let end = queue.end;
        drop(queue);
        self.room.notify_all();
        (message, end)
    }

    /// The bytes that lie here.
    pub(super) fn held(&self) -> usize {
        let queue = self.queue();
        queue.answers + queue.posted
    }

    /// Whether the connection ends now, whatever has not been sent.
    pub(super) fn is_closed(&self) -> bool {
        self.queue().end == End::Closed
    }

    /// A call has done something that the connection's thread is to look at.
    pub(super) fn nudge(&self) {
        self.wake.wake();
    }

    /// Nothing has happened since.
    pub(super) fn woken(&self) {
        self.wake.clear();
    }
}

impl AsFd for Outbox {
    /// Readable when there is something to be done.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagelift_rpc::message::PING;

    fn long() -> Message {
        let mut message = Message::keepalive(PING);
        message.body = vec![0; ANSWER_BYTES];
        message
    }

    #[test]
    fn events_that_nobody_takes_end_the_connection() {
        let outbox = Outbox::new().unwrap();
        for _ in 0..2 {
            outbox.post(&long());
        }
        assert_eq!(outbox.queue().end, End::Open);
        outbox.post(&long());
        assert_eq!(outbox.queue().end, End::Closed);
    }

    #[test]
    fn an_answer_waits_for_room_and_for_nothing_else() {
        let outbox = Outbox::new().unwrap();
        assert!(outbox.answer(&long()));
        assert!(outbox.queue().answers > ANSWER_BYTES);
        assert_eq!(outbox.held(), outbox.queue().answers);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| outbox.answer(&Message::keepalive(PING)));
            let (first, end) = outbox.next();
            assert!(first.is_some() && end == End::Open);
            assert!(waiting.join().unwrap());
        });
        assert!(outbox.answer(&long()));
        outbox.close_when_sent();
        assert!(
            outbox.answer(&long()),
            "a call does not wait for a client that is gone"
        );
        let sent = std::iter::from_fn(|| outbox.next().0).count();
        assert_eq!(sent, 2);
    }
}
