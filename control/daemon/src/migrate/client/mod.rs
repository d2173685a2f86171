//! A connection to another daemon: calls, and the answers to its pings.

mod place;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pagelift_rpc::calls::{AuthList, Close, Open, OpenArgs, Procedure, SupportsFeature};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::frame::FrameReader;
use pagelift_rpc::message::{KEEPALIVE_PROGRAM, Kind, Message, PING, PONG, Status};

use super::lock;
use place::{Stream, dial, place, unreachable};

/// How often a silent peer is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(5);
/// How long a peer may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection to another daemon.
#[derive(Debug)]
pub(super) struct Connection {
    writer: Mutex<Stream>,
    serial: AtomicU32,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `None` once the connection has ended.
    answers: Mutex<Answers>,
    came: Condvar,
}

#[derive(Debug)]
struct Answers {
    lost: bool,
    heard: Instant,
    asked: Instant,
    waiting: HashMap<u32, Message>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            lost: false,
            heard: Instant::now(),
            asked: Instant::now(),
            waiting: HashMap::new(),
        }
    }
}

fn lost() -> Error {
    Error::new(
        ErrorCode::InternalError,
        ErrorDomain::Rpc,
        "client socket is closed",
    )
}

impl Connection {
    /// Connects to the daemon at a libvirt URI, and opens its driver.
    ///
    /// # Errors
    /// Code 38 where it cannot be reached, 8 for a URI that means none.
    pub(super) fn open(uri: &str) -> Result<Self, Error> {
        let stream = dial(&place(uri)?)?;
        let reader = stream.try_clone().map_err(|e| unreachable(e.to_string()))?;
        let pinger = stream.try_clone().map_err(|e| unreachable(e.to_string()))?;
        let shared = Arc::<Shared>::default();
        let connection = Self {
            writer: Mutex::new(stream),
            serial: AtomicU32::new(0),
            shared: Arc::clone(&shared),
        };
        let listening = thread::Builder::new().name("peer".into());
        let started = listening.spawn(move || listen(reader, pinger, &shared));
        started.map_err(|e| unreachable(e.to_string()))?;
        connection.call::<AuthList>(&())?;
        connection.call::<SupportsFeature>(&pagelift_rpc::calls::feature::KEEPALIVE)?;
        let name = Some("qemu:///system".to_owned());
        connection.call::<Open>(&OpenArgs { name, flags: 0 })?;
        Ok(connection)
    }

    /// Whether the other daemon has a feature.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(super) fn has(&self, feature: i32) -> Result<bool, Error> {
        Ok(self.call::<SupportsFeature>(&feature)? == 1)
    }

    /// Calls a procedure, and waits for its answer for as long as the other daemon is there.
    ///
    /// # Errors
    /// The answer of a call that failed; code 1 of a connection that was lost.
    pub(super) fn call<P: Procedure>(&self, args: &P::Args) -> Result<P::Reply, Error> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let bytes = Message::call::<P>(serial, args).encode();
        let bytes = bytes.map_err(|error| unreachable(error.to_string()))?;
        lock(&self.writer).write_all(&bytes).map_err(|_| lost())?;
        let mut answers = lock(&self.shared.answers);
        loop {
            if let Some(answer) = answers.waiting.remove(&serial) {
                drop(answers);
                let malformed = |_| {
                    Error::new(
                        ErrorCode::Rpc,
                        ErrorDomain::Rpc,
                        "Unable to decode message payload",
                    )
                };
                return match answer.header.status {
                    Status::Ok => answer.decode().map_err(malformed),
                    _ => Err(answer.decode::<Error>().map_err(malformed)?),
                };
            }
            let silent = answers.heard.elapsed();
            if answers.lost || silent >= SILENCE {
                return Err(lost());
            }
            if silent >= PING_AFTER {
                drop(answers);
                if let Ok(ping) = Message::keepalive(PING).encode() {
                    let _noticed_by_the_reader = lock(&self.writer).write_all(&ping);
                }
                answers = lock(&self.shared.answers);
            }
            let waited = self.shared.came.wait_timeout(answers, PING_AFTER);
            answers = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether the connection has ended, or the other daemon is silent for too long. It is asked when it is
    /// silent, so this is to be called now and then.
    pub(super) fn is_lost(&self) -> bool {
        let mut answers = lock(&self.shared.answers);
        let silent = answers.heard.elapsed();
        if silent >= PING_AFTER && answers.asked.elapsed() >= PING_AFTER {
            answers.asked = Instant::now();
            drop(answers);
            if let Ok(ping) = Message::keepalive(PING).encode() {
                let _noticed_by_the_reader = lock(&self.writer).write_all(&ping);
            }
            answers = lock(&self.shared.answers);
        }
        answers.lost || silent >= SILENCE
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_lost() {
            let _said = self.call::<Close>(&());
        }
        lock(&self.writer).shut_down();
    }
}

/// Takes messages in until the connection ends; a ping is answered whatever a call waits for.
fn listen(mut reader: Stream, mut pinger: Stream, shared: &Shared) {
    let mut frames = FrameReader::default();
    let mut buffer = vec![0; 64 << 10];
    'connection: while let Ok(count @ 1..) = reader.read(&mut buffer) {
        frames.push(&buffer[..count]);
        loop {
            let message = match frames.next_message() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(_) => break 'connection,
            };
            let header = message.header;
            let mut answers = lock(&shared.answers);
            answers.heard = Instant::now();
            if header.program == KEEPALIVE_PROGRAM && header.procedure == PING {
                drop(answers);
                let Ok(pong) = Message::keepalive(PONG).encode() else {
                    break;
                };
                if pinger.write_all(&pong).is_err() {
                    break 'connection;
                }
            } else if header.kind == Kind::Reply {
                answers.waiting.insert(header.serial, message);
                drop(answers);
            }
            shared.came.notify_all();
        }
    }
    lock(&shared.answers).lost = true;
    shared.came.notify_all();
}
