//! A client of QEMU's monitor, for the tests' own questions.
//!
//! It shares no code with the client that pagelift uses, and speaks to a monitor of its own: a
//! QMP socket serves one client at a time. Protocol: QEMU's "QMP specification".

use core::time::Duration;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::PATIENCE;

/// One connection, past its handshake.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// A line that has come only in part.
    partial: Vec<u8>,
    /// Events not yet waited for, oldest first.
    events: Vec<Value>,
}

impl Qmp {
    /// Connects to a monitor and leaves its negotiation mode.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(path).with_context(|| format!("monitor {}", path.display()))?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
            partial: Vec::new(),
            events: Vec::new(),
        };
        let deadline = Instant::now() + PATIENCE;
        qmp.read(deadline)?.context("the monitor does not greet")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and gives what it returns. An error holds QEMU's class and text.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        // In one piece: QEMU executes `quit` at its last brace, and is gone when the rest comes.
        let line = format!("{request}\n");
        self.stream.get_mut().write_all(line.as_bytes())?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(mut message) = self.read(deadline)? {
            if message.get("event").is_some() {
                self.events.push(message);
            } else if let Some(error) = message.get("error") {
                bail!("{command}: {error}");
            } else {
                return Ok(message["return"].take());
            }
        }
        bail!("{command}: no answer")
    }

    /// The next event of that name, past or to come; older events of other names are kept.
    pub fn wait_event(&mut self, name: &str, patience: Duration) -> Result<Value> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
                return Ok(self.events.remove(at));
            }
            match self.read(deadline)? {
                Some(message) => self.events.push(message),
                None => bail!("no event {name}; there were {:?}", self.events),
            }
        }
    }

    /// All events so far that nobody waited for, oldest first; they stay.
    pub fn events(&mut self) -> Result<&[Value]> {
        // Events come in order with answers: after an answer, all before it are here.
        self.execute("query-name", json!({}))?;
        Ok(&self.events)
    }

    /// The next message, or `None` at the deadline.
    fn read(&mut self, deadline: Instant) -> Result<Option<Value>> {
        loop {
            match self.stream.read_until(b'\n', &mut self.partial) {
                Ok(_) if self.partial.ends_with(b"\n") => {
                    let message = serde_json::from_slice(&self.partial)?;
                    self.partial.clear();
                    return Ok(Some(message));
                }
                Ok(_) => bail!("the monitor closed the connection"),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= deadline {
                        return Ok(None);
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
