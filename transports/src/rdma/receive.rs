//! The target's end of a data connection: messages, in the order in which they were sent.

#![allow(
    unsafe_code,
    reason = "memory is received into while requests are under way"
)]

use std::collections::VecDeque;
use std::io::{self, Read};
use std::time::Duration;

use super::send::RECEIVING;
use super::verbs::{Access, Completion, Connected, Device, Done, Registered};

/// Messages that may be under way.
pub(super) const BUFFERS: u32 = 16;

/// Bytes of a message.
pub(super) const BUFFER_BYTES: u32 = 64 << 10;

/// After how many messages the source is told that there is room again: a quarter, so that it does not
/// run out while that is under way.
const CREDIT: u32 = BUFFERS / 4;

/// Longest wait in a read before it says that there is nothing.
const READ_TICK: Duration = Duration::from_millis(200);

/// Reads the messages of a connection as a stream.
pub(super) struct RdmaReader {
    // Ends before the memory that it receives into.
    connection: Connected,
    buffers: Buffers,
    /// Messages that have come, with their lengths.
    arrived: VecDeque<(usize, usize)>,
    /// How much of the first one was read.
    read: usize,
    /// Buffers that are free again and that the source was not told of.
    freed: u32,
    /// Why no more messages come, once all that have come are read.
    failed: Option<io::Error>,
    completions: Vec<Completion>,
}

/// Memory for messages.
pub(super) struct Buffers {
    registered: Registered,
    memory: Box<[u8]>,
}

impl Buffers {
    /// Registers memory, and has `connection` receive into it.
    ///
    /// # Errors
    /// When it cannot be registered, or the connection is lost.
    pub(super) fn post(connection: &mut Connected) -> io::Result<Self> {
        let mut memory = vec![0; BUFFERS as usize * BUFFER_BYTES as usize].into_boxed_slice();
        let start = memory.as_mut_ptr();
        // SAFETY: the memory is freed after what is registered (the order of the fields), and what is
        // received into is not looked at until it is done.
        let registered = unsafe {
            connection
                .device
                .register(start, memory.len(), Access::Local)
        }?;
        let buffers = Self { registered, memory };
        for number in 0..BUFFERS {
            buffers.receive(connection, number as usize)?;
        }
        Ok(buffers)
    }

    /// Has the next message but those before put into buffer number `number`.
    fn receive(&self, connection: &mut Connected, number: usize) -> io::Result<()> {
        let address = self.registered.addresses().start + (number * BUFFER_BYTES as usize) as u64;
        let key = self.registered.local_key();
        let id = RECEIVING | number as u64;
        // SAFETY: nobody looks at the buffer before the message has come.
        unsafe { connection.receive(id, address, BUFFER_BYTES, key) }
    }
}

impl RdmaReader {
    /// `buffers` are those of `connection`.
    pub(super) fn new(connection: Connected, buffers: Buffers) -> Self {
        Self {
            connection,
            buffers,
            arrived: VecDeque::with_capacity(BUFFERS as usize),
            read: 0,
            freed: 0,
            failed: None,
            completions: Vec::new(),
        }
    }

    /// The device that receives.
    pub(super) fn device(&self) -> &'static Device {
        self.connection.device
    }

    /// Waits for a message.
    fn wait(&mut self) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        completions.clear();
        let taken = self.connection.completions(&mut completions, READ_TICK);
        for completion in &completions {
            if let Done::Received { len, .. } = completion.done {
                let number = (completion.id & !RECEIVING) as usize;
                self.arrived.push_back((number, len));
            }
        }
        self.completions = completions;
        match taken {
            // What came before it is read first.
            Err(error) if !self.arrived.is_empty() => self.failed = Some(error),
            other => other?,
        }
        Ok(())
    }

    /// A message is read: its buffer takes another one.
    fn free(&mut self, number: usize) -> io::Result<()> {
        self.buffers.receive(&mut self.connection, number)?;
        self.freed += 1;
        if self.freed == CREDIT {
            self.connection.send_number(0, self.freed)?;
            self.freed = 0;
        }
        Ok(())
    }
}

impl Read for RdmaReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.arrived.is_empty() {
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            self.wait()?;
        }
        let Some((number, len)) = self.arrived.front().copied() else {
            return match self.connection.is_disconnected() {
                true => Ok(0),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
        };
        let start = number * BUFFER_BYTES as usize;
        let message = &self.buffers.memory[start..start + len.min(BUFFER_BYTES as usize)];
        let count = (message.len() - self.read).min(out.len());
        out[..count].copy_from_slice(&message[self.read..self.read + count]);
        self.read += count;
        if self.read == message.len() {
            self.arrived.pop_front();
            self.read = 0;
            // A connection that has ended gives its buffers back; what has come is read all the same.
            if self.failed.is_none() && !self.connection.is_disconnected() {
                self.free(number)?;
            }
        }
        Ok(count)
    }
}
