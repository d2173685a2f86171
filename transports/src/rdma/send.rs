//! The source's end of a data connection: frames as messages, pages as writes.

#![allow(
    unsafe_code,
    reason = "memory is sent from while requests are under way"
)]

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pagelift_engine::transport::{SEND_BUFFER_BYTES, SendHalf, SendQueue, SendStats, send_buffer};
use pagelift_engine::units::{PAGE_BYTES, PageIndex, PageRange};

use super::verbs::{Access, Completion, Connected, Done, Registered, Wake};
use super::windows::Windows;

/// Buffers that are lent: two for the batch that is made, as many for those under way.
const BUFFERS: usize = 6;

/// Memory of a connection, beside the buffer that every one has.
pub(super) const CONNECTION_BYTES: u64 = (BUFFERS as u64 - 1) * SEND_BUFFER_BYTES as u64;

/// Longest wait before it is looked up whether the connection was closed.
const TICK: Duration = Duration::from_millis(200);

/// How long the last messages may take when the connection is given up on purpose.
const DRAIN: Duration = Duration::from_secs(2);

/// Requests with this number and above are for messages of the target's.
pub(super) const RECEIVING: u64 = 1 << 63;

/// Messages of the target's that may be under way: it sends one for a quarter of its buffers.
pub(super) const CREDIT_MESSAGES: u32 = 8;

/// What the target has room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Messages at a time.
    pub(super) buffers: u32,
    /// Bytes of a message.
    pub(super) buffer_bytes: u32,
}

/// Sends frames and places pages.
pub(super) struct RdmaHalf {
    // Ends before the memory that it sends from.
    connection: Connected,
    wake: Wake,
    windows: Windows,
    room: Room,
    /// Messages that may be sent before the target says more.
    credits: u32,
    buffers: Vec<Buffer>,
    /// Given back, and perhaps still sent from.
    returned: Vec<Bytes>,
    free: Vec<BytesMut>,
    /// What requests under way send from, with their numbers.
    sending: VecDeque<(u64, Bytes)>,
    /// Number of the next request, and of the last one that is done.
    next: u64,
    done: u64,
    /// Requests since the last one whose end is told.
    silent: u32,
    completions: Vec<Completion>,
}

/// A buffer's registration.
struct Buffer(Registered);

impl RdmaHalf {
    /// `connection` has memory for [`CREDIT_MESSAGES`].
    ///
    /// # Errors
    /// When the buffers cannot be registered.
    pub(super) fn new(
        connection: Connected,
        wake: Wake,
        windows: Windows,
        room: Room,
    ) -> io::Result<Self> {
        let mut half = Self {
            connection,
            wake,
            windows,
            room,
            credits: room.buffers,
            buffers: Vec::with_capacity(BUFFERS),
            returned: Vec::with_capacity(BUFFERS),
            free: Vec::with_capacity(BUFFERS),
            sending: VecDeque::new(),
            next: 1,
            done: 0,
            silent: 0,
            completions: Vec::new(),
        };
        for _ in 0..BUFFERS {
            let mut memory = send_buffer();
            let device = half.connection.device;
            // SAFETY: the memory of a buffer is freed with its last handle, which is not before the
            // requests that use it are done (`sending`) or the connection has ended. After that the
            // registration keeps pages that nobody reads.
            let registered =
                unsafe { device.register(memory.as_mut_ptr(), memory.len(), Access::Local) }?;
            half.buffers.push(Buffer(registered));
            half.free.push(memory);
        }
        Ok(half)
    }

    /// The key for bytes of a buffer that was lent.
    fn key(&self, bytes: &[u8]) -> Option<u32> {
        let start = bytes.as_ptr().addr() as u64;
        let holds = |buffer: &&Buffer| {
            let at = buffer.0.addresses();
            at.start <= start && start + bytes.len() as u64 <= at.end
        };
        self.buffers
            .iter()
            .find(holds)
            .map(|buffer| buffer.0.local_key())
    }

    /// Looks at what is done; waits for something if asked to.
    fn reap(&mut self, wait: bool) -> io::Result<()> {
        let timeout = if wait { TICK } else { Duration::ZERO };
        let mut completions = std::mem::take(&mut self.completions);
        completions.clear();
        let taken = self.connection.completions(&mut completions, timeout);
        for completion in &completions {
            match completion.done {
                Done::Sent => self.done = self.done.max(completion.id),
                Done::Received { number, .. } => {
                    self.credits += number;
                    self.connection.receive_number(RECEIVING)?;
                }
            }
        }
        self.completions = completions;
        taken?;
        while self.sending.front().is_some_and(|(id, _)| *id <= self.done) {
            self.sending.pop_front();
        }
        let mut at = 0;
        while at < self.returned.len() {
            match self.returned.swap_remove(at).try_into_mut() {
                Ok(memory) => self.free.push(memory),
                Err(still_sent) => {
                    self.returned.push(still_sent);
                    let last = self.returned.len() - 1;
                    self.returned.swap(at, last);
                    at += 1;
                }
            }
        }
        match self.connection.is_disconnected() {
            true => Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                "the target has closed the RDMA connection",
            )),
            false => Ok(()),
        }
    }

    /// Requests that are under way, for all that is known.
    fn under_way(&self) -> u64 {
        self.next - 1 - self.done
    }

    /// Waits until another request can be posted; its number.
    fn next_request(&mut self) -> io::Result<u64> {
        while self.under_way() >= u64::from(self.connection.send_depth) {
            self.reap(true)?;
        }
        let id = self.next;
        self.next += 1;
        Ok(id)
    }

    /// Sends bytes of a buffer that was lent, whose key is `key`.
    fn send_lent(&mut self, mut bytes: Bytes, key: u32) -> io::Result<()> {
        while !bytes.is_empty() {
            let most = self.room.buffer_bytes as usize;
            let message = bytes.split_to(most.min(bytes.len()));
            while self.credits == 0 {
                self.reap(true)?;
            }
            let id = self.next_request()?;
            let (address, len) = (message.as_ptr().addr() as u64, length(&message)?);
            self.sending.push_back((id, message));
            // SAFETY: `sending` holds the bytes, which nobody can change, until it is done.
            unsafe { self.connection.send(id, address, len, key) }?;
            self.credits -= 1;
            self.silent = 0;
        }
        self.reap(false)
    }
}

impl SendHalf for RdmaHalf {
    fn lend(&mut self) -> io::Result<BytesMut> {
        self.reap(false)?;
        loop {
            if let Some(memory) = self.free.pop() {
                return Ok(memory);
            }
            if self.under_way() == 0 {
                // All are lent, which nobody does.
                return Err(io::Error::other("there are no buffers left"));
            }
            self.reap(true)?;
        }
    }

    fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        if let Some(key) = self.key(&bytes) {
            return self.send_lent(bytes, key);
        }
        // Not of a buffer that was lent.
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let mut buffer = self.lend()?;
            let (piece, more) = rest.split_at(rest.len().min(buffer.len()));
            rest = more;
            buffer[..piece.len()].copy_from_slice(piece);
            let buffer = buffer.freeze();
            let key = self.key(&buffer).ok_or(io::ErrorKind::NotFound)?;
            self.send_lent(buffer.slice(..piece.len()), key)?;
            self.give_back(buffer);
        }
        Ok(())
    }

    fn give_back(&mut self, buffer: Bytes) {
        self.returned.push(buffer);
    }

    fn stats(&mut self) -> SendStats {
        let queued: u64 = self
            .sending
            .iter()
            .map(|(_, bytes)| bytes.len() as u64)
            .sum();
        SendStats {
            queue: Some(SendQueue {
                queued_bytes: queued,
                capacity_bytes: (BUFFERS as u64 / 2) << 20,
            }),
            busy: None,
            rate_cap: None,
        }
    }

    fn is_one_sided(&self) -> bool {
        true
    }

    fn can_place(&mut self, runs: &[PageRange]) -> io::Result<bool> {
        self.reap(false)?;
        let done = self.done;
        self.windows.open(runs, &self.wake, |id| id <= done)
    }

    fn place(&mut self, first: PageIndex, mut pages: Bytes) -> io::Result<()> {
        let key = self.key(&pages);
        let key =
            key.ok_or_else(|| io::Error::other("pages that are not of a buffer that was lent"))?;
        let mut page = first.0;
        while !pages.is_empty() {
            let id = self.next_request()?;
            let window = self.windows.at(page, id);
            let window = window.ok_or_else(|| io::Error::other("pages that cannot be placed"))?;
            let offset = page - window.pages.first.0;
            let count = (window.pages.count.0 - offset).min((pages.len() / PAGE_BYTES) as u64);
            let piece = pages.split_to(PageRange::new(page, count).len_bytes());
            let local = (piece.as_ptr().addr() as u64, length(&piece)?, key);
            let remote = (window.address + offset * PAGE_BYTES as u64, window.key);
            // Its frame follows and is told of. But the queue must not fill with what nobody hears of.
            self.silent += 1;
            let signaled = self.silent >= self.connection.send_depth / 4;
            if signaled {
                self.silent = 0;
            }
            self.sending.push_back((id, piece));
            // SAFETY: `sending` holds the bytes, which nobody can change, until it is done.
            unsafe { self.connection.write(id, local, remote, signaled) }?;
            page += count;
        }
        Ok(())
    }
}

impl Drop for RdmaHalf {
    /// What was sent arrives, unless the connection is lost.
    fn drop(&mut self) {
        let until = Instant::now() + DRAIN;
        while self.under_way() > 0 && Instant::now() < until && self.reap(true).is_ok() {}
    }
}

/// The length of a piece of a buffer, which is shorter than 2 MiB.
fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(io::Error::other)
}
