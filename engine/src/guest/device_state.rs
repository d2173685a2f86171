//! Device state: opaque bytes that travel from one half of a guest to the other.
//!
//! Most hypervisors write their device state once and read it once. One whose halves talk to each
//! other (QEMU's migration stream and its return path) takes the [channel](DeviceChannel) itself.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::units::ByteCount;
use crate::wire::StateChunk;

/// Pieces of device state that may wait for the guest to take them.
pub(crate) const QUEUED_CHUNKS: usize = 64;

/// Longest piece of device state in one frame.
pub(crate) const STATE_CHUNK_BYTES: usize = 64 << 10;

/// Time between two looks at whether the migration still goes on, while no state comes.
const READ_TICK: Duration = Duration::from_millis(20);

/// How the device state of a guest travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFlow {
    /// The source writes it in `save_devices`; the target reads it in `load_devices`.
    Written,
    /// The guest sends and takes it by its [`DeviceChannel`], at any time from `attach` on.
    Relayed,
}

/// Both directions between a guest's two halves.
#[derive(Debug)]
pub struct DeviceChannel {
    /// Sends device state (source), or answers to it (target).
    pub state: StateSender,
    /// Gives the other side's.
    pub incoming: Receiver<StateChunk>,
    /// Makes the coordinator look again.
    pub waker: Waker,
}

/// Makes the coordinator look again: something of the guest has changed.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// Calls `wake` each time.
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Makes it look.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

/// Sends opaque bytes to the guest's other half.
#[derive(Clone)]
pub struct StateSender {
    send: Arc<dyn Fn(StateChunk) -> io::Result<()> + Send + Sync>,
    sent: Arc<dyn Fn(ByteCount) + Send + Sync>,
}

impl std::fmt::Debug for StateSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateSender")
    }
}

impl StateSender {
    /// Sends each chunk by `send`; tells `sent` how many bytes of state have gone.
    pub(crate) fn new(
        send: impl Fn(StateChunk) -> io::Result<()> + Send + Sync + 'static,
        sent: impl Fn(ByteCount) + Send + Sync + 'static,
    ) -> Self {
        Self {
            send: Arc::new(send),
            sent: Arc::new(sent),
        }
    }

    /// Sends `bytes`, in as many pieces as it takes; `last` if none follow. Waits while the
    /// connection is full.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn send(&self, bytes: &[u8], last: bool) -> io::Result<()> {
        let send = |last, bytes: &[u8]| {
            (self.send)(StateChunk {
                last,
                bytes: bytes.to_vec(),
            })
        };
        let mut pieces = bytes.chunks(STATE_CHUNK_BYTES).peekable();
        if pieces.peek().is_none() {
            send(last, &[])?;
        }
        while let Some(piece) = pieces.next() {
            send(last && pieces.peek().is_none(), piece)?;
        }
        (self.sent)(ByteCount(bytes.len() as u64));
        Ok(())
    }
}

/// A bounded queue of the other side's device state.
pub(crate) fn state_queue() -> (Sender<StateChunk>, Receiver<StateChunk>) {
    bounded(QUEUED_CHUNKS)
}

/// Device state that a guest writes, gathered into pieces of a frame each.
#[derive(Debug)]
pub(crate) struct StateWriter {
    sender: StateSender,
    piece: Vec<u8>,
}

impl StateWriter {
    /// Writes to `sender`.
    pub(crate) fn new(sender: StateSender) -> Self {
        Self {
            sender,
            piece: Vec::new(),
        }
    }

    /// Sends what was not sent yet: nothing follows.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.sender.send(&self.piece, true)
    }
}

impl Write for StateWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = STATE_CHUNK_BYTES - self.piece.len();
        let taken = bytes.len().min(room);
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == STATE_CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.piece.is_empty() {
            self.sender.send(&self.piece, false)?;
            self.piece.clear();
        }
        Ok(())
    }
}

/// Device state that a guest reads, as it comes.
pub(crate) struct StateReader<'a> {
    incoming: Receiver<StateChunk>,
    /// Whether the migration still goes on; asked while nothing comes.
    goes_on: &'a mut dyn FnMut() -> bool,
    piece: Vec<u8>,
    taken: usize,
    last: bool,
}

impl<'a> StateReader<'a> {
    /// Reads what comes from `incoming`, for as long as the migration `goes_on`.
    pub(crate) fn new(
        incoming: Receiver<StateChunk>,
        goes_on: &'a mut dyn FnMut() -> bool,
    ) -> Self {
        Self {
            incoming,
            goes_on,
            piece: Vec::new(),
            taken: 0,
            last: false,
        }
    }

    /// That everything was read.
    ///
    /// # Errors
    /// When something was left, or the end does not come.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        match self.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("it left some of its device state unread")),
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            match self.incoming.recv_timeout(READ_TICK) {
                Ok(chunk) => {
                    self.piece = chunk.bytes;
                    self.taken = 0;
                    self.last = chunk.last;
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) if (self.goes_on)() => {}
                Err(_) => {
                    let kind = io::ErrorKind::ConnectionAborted;
                    return Err(io::Error::new(kind, "the migration ended"));
                }
            }
        }
    }
}

impl Read for StateReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() {
            if self.last || out.is_empty() {
                return Ok(0);
            }
            self.receive()?;
        }
        let count = out.len().min(self.piece.len() - self.taken);
        out[..count].copy_from_slice(&self.piece[self.taken..][..count]);
        self.taken += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(write: &[&[u8]]) -> (Vec<StateChunk>, Vec<u8>) {
        let (sender, incoming) = state_queue();
        let send = move |chunk| sender.send(chunk).map_err(io::Error::other);
        let mut writer = StateWriter::new(StateSender::new(send, |_| ()));
        for bytes in write {
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap();
        let chunks: Vec<_> = incoming.try_iter().collect();
        let (again, incoming) = state_queue();
        for chunk in &chunks {
            again.send(chunk.clone()).unwrap();
        }
        let mut goes_on = || false;
        let mut reader = StateReader::new(incoming, &mut goes_on);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        reader.finish().unwrap();
        (chunks, read)
    }

    #[test]
    fn what_is_written_is_read_and_only_the_last_piece_says_so() {
        let long = vec![7; 2 * STATE_CHUNK_BYTES + 1];
        for state in [&[][..], &[&[1, 2][..], &[3]], &[&long[..], &[9]]] {
            let (chunks, read) = through(state);
            assert_eq!(read, state.concat());
            let (last, others) = chunks.split_last().unwrap();
            assert!(last.last && others.iter().all(|chunk| !chunk.last));
            assert!(
                chunks
                    .iter()
                    .all(|chunk| chunk.bytes.len() <= STATE_CHUNK_BYTES)
            );
        }
    }

    #[test]
    fn a_reader_ends_with_the_migration_and_notices_what_is_left() {
        let (sender, incoming) = state_queue();
        let (last, bytes) = (true, vec![1, 2]);
        sender.send(StateChunk { last, bytes }).unwrap();
        let mut goes_on = || false;
        let mut reader = StateReader::new(incoming, &mut goes_on);
        assert_eq!(reader.read(&mut [0]).unwrap(), 1);
        assert!(reader.finish().is_err(), "a byte is left");

        let (_sender, incoming) = state_queue();
        let mut asked = 0;
        let mut goes_on = || {
            asked += 1;
            asked < 3
        };
        let mut reader = StateReader::new(incoming, &mut goes_on);
        let error = reader.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(asked, 3);
    }
}
