//! The handle: connect, execute, pass descriptors.

use std::fs::File;
use std::io::{BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagelift_engine::plain_text;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown};
use serde_json::{Value, json};

use super::address::Address;
use super::error::QmpError;
use super::events::Events;
use super::inbox::{End, Inbox, read_line};

/// How long QEMU may take to greet: a monitor that another client holds never does.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(3);

/// How long QEMU may take to answer a command.
///
/// Generous, because QEMU's main loop stalls on slow disks; it is there to end, not to pace.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to a QEMU's monitor; clones share it.
#[derive(Clone, Debug)]
pub struct Qmp {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    inbox: Arc<Inbox>,
    socket: OwnedFd,
    address: Address,
    /// Number of the next command; holding it is the right to write to the socket.
    next_id: Mutex<u64>,
    reader: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The reading thread has no other way to learn that nobody listens any more.
        let _already_closed = rustix::net::shutdown(&self.socket, Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _only_if_it_panicked = reader.join();
        }
    }
}

impl Qmp {
    /// Connects to the monitor at `address` and negotiates.
    ///
    /// # Errors
    /// When nothing listens there, another client holds the monitor, or it is no QMP.
    pub fn connect(address: &Address) -> Result<Self, QmpError> {
        Self::connect_within(address, GREETING_TIMEOUT)
    }

    /// As [`connect`](Self::connect), with another limit for the greeting.
    ///
    /// # Errors
    /// As there.
    pub fn connect_within(address: &Address, limit: Duration) -> Result<Self, QmpError> {
        let name = address.to_string();
        let no_greeting = || QmpError::NoGreeting {
            address: name.clone(),
            waited: limit,
        };
        let connect_failed = |source: std::io::Error| QmpError::Connect {
            address: name.clone(),
            source,
        };
        let started = Instant::now();
        let socket = match address.connect(limit) {
            Ok(socket) => socket,
            // The queue of clients who wait for the monitor is full.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(no_greeting());
            }
            Err(error) => return Err(connect_failed(error)),
        };
        let inbox = Arc::new(Inbox::new(name.clone()));
        let mut reader = BufReader::new(File::from(socket.try_clone().map_err(connect_failed)?));
        loop {
            match read_line(&mut reader) {
                Ok(greeting) if greeting.contains_key("QMP") => break,
                // What QEMU had not yet written to the client before us reaches us first.
                Ok(late) if late.contains_key("event") || late.contains_key("return") => {
                    if started.elapsed() >= limit {
                        return Err(no_greeting());
                    }
                }
                Ok(_) => return Err(inbox.broken(&End::Malformed("it does not greet".into()))),
                Err(End::Lost(_)) if started.elapsed() >= limit => return Err(no_greeting()),
                Err(end) => return Err(inbox.broken(&end)),
            }
        }
        set_socket_timeout(&socket, Timeout::Recv, None).map_err(|e| connect_failed(e.into()))?;
        set_socket_timeout(&socket, Timeout::Send, Some(COMMAND_TIMEOUT))
            .map_err(|e| connect_failed(e.into()))?;
        let reader = std::thread::Builder::new()
            .name("qmp".into())
            .spawn({
                let inbox = Arc::clone(&inbox);
                move || inbox.read_all(reader)
            })
            .map_err(connect_failed)?;
        let inner = Arc::new(Inner {
            inbox,
            socket,
            address: address.clone(),
            next_id: Mutex::new(1),
            reader: Some(reader),
        });
        let qmp = Self { inner };
        qmp.execute("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    /// Executes a command and waits for its answer, at most [`COMMAND_TIMEOUT`].
    ///
    /// `arguments` is an object, or `Null` for none.
    ///
    /// # Errors
    /// [`QmpError::Refused`] with QEMU's reason, or what befell the connection.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.call(command, arguments, None, COMMAND_TIMEOUT)
    }

    /// As [`execute`](Self::execute), with another limit.
    ///
    /// After a timeout the connection is still good; the late answer is dropped.
    ///
    /// # Errors
    /// As there.
    pub fn execute_within(
        &self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        self.call(command, arguments, None, limit)
    }

    /// Gives QEMU a copy of `fd`, to be used once under `name` (`fd:name` in a URI).
    ///
    /// # Errors
    /// When the connection is TCP, or as [`execute`](Self::execute).
    pub fn getfd(&self, name: &str, fd: BorrowedFd<'_>) -> Result<(), QmpError> {
        if let Address::Tcp(_) = self.inner.address {
            let address = self.inner.address.to_string();
            return Err(QmpError::DescriptorOverTcp(address));
        }
        let arguments = json!({ "fdname": name });
        self.call("getfd", arguments, Some(fd), COMMAND_TIMEOUT)?;
        Ok(())
    }

    /// The output of a command of QEMU's human monitor.
    ///
    /// # Errors
    /// As [`execute`](Self::execute); a mistake in `line` is told in the output, not as an error.
    pub fn human(&self, line: &str) -> Result<String, QmpError> {
        match self.execute("human-monitor-command", json!({ "command-line": line }))? {
            Value::String(output) => Ok(output),
            _ => Err(QmpError::Unexpected {
                command: format!("human-monitor-command {line}"),
                missing: "its output".into(),
            }),
        }
    }

    /// A reader of the events from now on.
    pub fn events(&self) -> Events {
        let mut events = Events {
            inbox: Arc::clone(&self.inner.inbox),
            next: 0,
        };
        events.skip_to_now();
        events
    }

    /// Where this monitor is.
    pub fn address(&self) -> &Address {
        &self.inner.address
    }

    /// The process that made a unix socket listen, 0 if it is outside our pid namespace; `None`
    /// for TCP.
    pub(super) fn listener(&self) -> std::io::Result<Option<u32>> {
        if let Address::Tcp(_) = self.inner.address {
            return Ok(None);
        }
        let peer = rustix::net::sockopt::socket_peercred(&self.inner.socket)?;
        Ok(Some(u32::try_from(peer.pid.as_raw_pid()).unwrap_or(0)))
    }

    fn call(
        &self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let deadline = Instant::now() + limit;
        let id = self.send(command, arguments, fd)?;
        let inbox = &self.inner.inbox;
        let mut state = inbox.lock();
        let mut answer = loop {
            if let Some(answer) = state.answers.get_mut(&id).and_then(Option::take) {
                state.answers.remove(&id);
                break answer;
            }
            if let Some(end) = &state.end {
                let error = inbox.broken(end);
                state.answers.remove(&id);
                return Err(error);
            }
            state = match inbox.wait(state, deadline) {
                Some(state) => state,
                None => {
                    inbox.lock().answers.remove(&id);
                    return Err(QmpError::Timeout {
                        address: inbox.address.clone(),
                        what: format!("the answer to {command}"),
                        waited: limit,
                    });
                }
            };
        };
        drop(state);
        if let Some(value) = answer.remove("return") {
            return Ok(value);
        }
        let part = |key: &str| {
            answer
                .get("error")?
                .get(key)?
                .as_str()
                .map(plain_text::line)
        };
        Err(QmpError::Refused {
            command: command.to_owned(),
            class: part("class").unwrap_or_else(|| "no class".into()),
            desc: part("desc").unwrap_or_else(|| "no reason given".into()),
        })
    }

    /// Writes one command; its number is what the answer will carry.
    fn send(
        &self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<u64, QmpError> {
        let inner = &*self.inner;
        let mut next_id = inner.next_id.lock().unwrap_or_else(PoisonError::into_inner);
        let id = *next_id;
        *next_id += 1;
        let mut line = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            line["arguments"] = arguments;
        }
        let mut line = line.to_string();
        line.push('\n');
        inner.inbox.lock().answers.insert(id, None);
        send_all(inner.socket.as_fd(), line.as_bytes(), fd).map_err(|error| {
            let mut state = inner.inbox.lock();
            state.answers.remove(&id);
            // Part of a line may be out: nothing that follows it would be understood.
            let end = End::Lost(error.to_string());
            let end = state.end.get_or_insert(end).clone();
            drop(state);
            let _already_closed = rustix::net::shutdown(&inner.socket, Shutdown::Both);
            inner.inbox.broken(&end)
        })?;
        Ok(id)
    }
}

/// Sends all of `bytes`, and `fd` with the first of them.
fn send_all(
    socket: BorrowedFd<'_>,
    mut bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut fds: &[BorrowedFd<'_>] = fd.as_slice();
    while !bytes.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        // NOSIGNAL: a library must not let its host process die of SIGPIPE.
        match rustix::net::sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(sent) => {
                bytes = &bytes[sent..];
                fds = &[];
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
