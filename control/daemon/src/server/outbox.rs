//! Messages on their way to a client.
//!
//! Calls put their answers here and wait while there is no room; events do not wait, and a client that
//! does not take them loses its connection. The connection's thread takes the bytes out.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use pagelift_rpc::message::Message;
use tracing::warn;

use super::stream::Wake;

/// Bytes that may wait before answers have to; events until twice as many wait.
const ROOM_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    room: Condvar,
    wake: Wake,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
    end: End,
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
        while queue.bytes > ROOM_BYTES && queue.end == End::Open {
            queue = self
                .room
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.put(queue, bytes);
        true
    }

    /// Sends a message without waiting; closes the connection when there is no room.
    pub(crate) fn post(&self, message: &Message) {
        let Ok(bytes) = message.encode() else {
            warn!(header = ?message.header, "an event that is too long was not sent");
            return;
        };
        let mut queue = self.queue();
        if queue.bytes > 2 * ROOM_BYTES {
            queue.end = End::Closed;
            drop(queue);
            self.wake.wake();
            self.room.notify_all();
        } else {
            self.put(queue, bytes);
        }
    }

    fn put(&self, mut queue: MutexGuard<'_, Queue>, bytes: Vec<u8>) {
        if queue.end == End::Open {
            queue.bytes += bytes.len();
            queue.messages.push_back(bytes);
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
        let message = queue.messages.pop_front();
        queue.bytes -= message.as_ref().map_or(0, Vec::len);
        let end = queue.end;
        drop(queue);
        self.room.notify_all();
        (message, end)
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
        message.body = vec![0; ROOM_BYTES];
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
        assert!(outbox.queue().bytes > ROOM_BYTES);
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
