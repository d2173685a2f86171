//! A client that may send anything.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use pagelift_rpc::calls::{Open, OpenArgs, Procedure};
use pagelift_rpc::error::Error;
use pagelift_rpc::frame::FrameReader;
use pagelift_rpc::message::{Kind, Message, Status};
use pagelift_tests::PATIENCE;

use super::Daemon;

/// A client that may send anything.
#[derive(Debug)]
pub(crate) struct Client {
    socket: UnixStream,
    frames: FrameReader,
    serial: u32,
    /// Events that came while something else was waited for.
    pub(crate) events: Vec<Message>,
}

impl Client {
    pub(crate) fn connect(path: &Path) -> Self {
        Self::of(UnixStream::connect(path).unwrap())
    }

    pub(super) fn of(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            frames: FrameReader::default(),
            serial: 0,
            events: Vec::new(),
        }
    }

    /// One that has opened the driver.
    pub(crate) fn open(daemon: &Daemon) -> Self {
        let mut client = Self::connect(&daemon.socket());
        client.call::<Open>(&open_args(0)).unwrap();
        client
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Sends what the daemon takes; whether it took all.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    pub(crate) fn send_message(&mut self, message: &Message) {
        self.send(&message.encode().unwrap());
    }

    /// The next message; `None` when the connection was closed.
    pub(crate) fn receive(&mut self) -> Option<Message> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = self.frames.next_message().unwrap() {
                return Some(message);
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.frames.push(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    /// The next answer; events are put aside.
    pub(crate) fn reply(&mut self) -> Option<Message> {
        loop {
            let message = self.receive()?;
            if message.header.kind == Kind::Reply {
                return Some(message);
            }
            self.events.push(message);
        }
    }

    /// A call and its answer.
    pub(crate) fn call<P: Procedure>(&mut self, args: &P::Args) -> Result<P::Reply, Error> {
        let serial = self.serial;
        self.serial += 1;
        self.send_message(&Message::call::<P>(serial, args));
        let reply = self
            .reply()
            .unwrap_or_else(|| panic!("no answer to {}", P::NUMBER));
        assert_eq!(reply.header.serial, serial);
        result::<P>(&reply)
    }

    /// Nothing more will be sent.
    pub(crate) fn finish_sending(&mut self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }
}

/// What an answer to `P` says.
pub(crate) fn result<P: Procedure>(reply: &Message) -> Result<P::Reply, Error> {
    match reply.header.status {
        Status::Ok => Ok(reply.decode().unwrap()),
        _ => Err(reply.decode().unwrap()),
    }
}

pub(crate) fn open_args(flags: u32) -> OpenArgs {
    OpenArgs {
        name: Some("qemu:///system".into()),
        flags,
    }
}

/// Code and domain of an error, and its message.
pub(crate) fn parts(error: &Error) -> (i32, i32, &str) {
    (error.code.number(), error.domain.number(), error.message())
}
