//! A connection to another daemon: calls, and the answers to its pings.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pagelift_rpc::calls::{AuthList, Close, Open, OpenArgs, Procedure, SupportsFeature};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::frame::FrameReader;
use pagelift_rpc::message::{KEEPALIVE_PROGRAM, Kind, Message, PING, PONG, Status};

use super::lock;

/// How long another host may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// libvirt's port.
const PORT: u16 = 16509;
/// How often a silent peer is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(5);
/// How long a peer may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// What is at the other end of a URI.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Tcp(String, u16),
    Unix(String),
}

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
    waiting: HashMap<u32, Message>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            lost: false,
            heard: Instant::now(),
            waiting: HashMap::new(),
        }
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn try_clone(&self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    fn shut_down(&self) {
        let _gone = match self {
            Self::Tcp(stream) => stream.shutdown(std::net::Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(std::net::Shutdown::Both),
        };
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

fn unreachable(detail: String) -> Error {
    Error::new(ErrorCode::SystemError, ErrorDomain::Rpc, detail)
}

fn lost() -> Error {
    Error::new(
        ErrorCode::InternalError,
        ErrorDomain::Rpc,
        "client socket is closed",
    )
}

fn place(uri: &str) -> Result<Place, Error> {
    let invalid = |why: &str| {
        let detail = format!("{why}: {uri}");
        Error::new(ErrorCode::InvalidArgument, ErrorDomain::Qemu, detail)
    };
    let (scheme, rest) = uri
        .split_once("://")
        .ok_or_else(|| invalid("not a connection URI"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    match scheme {
        "qemu+unix" | "qemu" if authority.is_empty() => {
            let socket = query
                .split('&')
                .find_map(|part| part.strip_prefix("socket="));
            let socket =
                socket.ok_or_else(|| invalid("Attempt to migrate guest to the same host"))?;
            Ok(Place::Unix(socket.replace("%2F", "/").replace("%2f", "/")))
        }
        "qemu+tcp" if !authority.is_empty() => {
            let authority = authority.rsplit('@').next().unwrap_or_default();
            let (host, port) = match authority.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => {
                    (host, port.parse().map_err(|_| invalid("not a port"))?)
                }
                _ => (authority, PORT),
            };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            if host.starts_with("localhost") && port == PORT {
                return Err(invalid("Attempt to migrate guest to the same host"));
            }
            Ok(Place::Tcp(host.to_owned(), port))
        }
        _ => Err(invalid("daemons are reached by qemu+tcp or qemu+unix")),
    }
}

fn dial(place: &Place) -> Result<Stream, Error> {
    match place {
        Place::Unix(path) => UnixStream::connect(path)
            .map(Stream::Unix)
            .map_err(|error| unreachable(format!("Failed to connect socket to '{path}': {error}"))),
        Place::Tcp(host, port) => {
            let addresses = (host.as_str(), *port).to_socket_addrs().map_err(|error| {
                unreachable(format!(
                    "Unable to resolve address '{host}' service '{port}': {error}"
                ))
            })?;
            let mut why = "no address".to_owned();
            for address in addresses {
                match TcpStream::connect_timeout(&address, CONNECT_PATIENCE) {
                    Ok(stream) => return Ok(Stream::Tcp(stream)),
                    Err(error) => why = error.to_string(),
                }
            }
            Err(unreachable(format!(
                "unable to connect to server at '{host}:{port}': {why}"
            )))
        }
    }
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

    /// Whether the connection has ended.
    pub(super) fn is_lost(&self) -> bool {
        lock(&self.shared.answers).lost
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let tcp = |host: &str, port| Ok(Place::Tcp(host.to_owned(), port));
        assert_eq!(place("qemu+tcp://dst/system"), tcp("dst", 16509));
        assert_eq!(place("qemu+tcp://127.0.0.1:7/system"), tcp("127.0.0.1", 7));
        assert_eq!(place("qemu+tcp://[::1]:7/system"), tcp("::1", 7));
        let unix = Place::Unix("/run/a".into());
        assert_eq!(place("qemu+unix:///system?socket=/run/a"), Ok(unix));
        for local in [
            "qemu:///system",
            "qemu+tcp://localhost/system",
            "qemu+ssh://h/system",
            "x",
        ] {
            assert_eq!(
                place(local).unwrap_err().code,
                ErrorCode::InvalidArgument,
                "{local}"
            );
        }
    }
}
