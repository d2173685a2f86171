//! The server of a control socket.
//!
//! One thread accepts connections, and each connection has a thread of its own, so that a slow or
//! dead client delays neither the migration nor other clients. Bounds: [`MOST_CLIENTS`] at a time,
//! lines of [`LONGEST_LINE`] bytes, `IDLE` between two requests, and `WRITE_LIMIT` for a client to
//! take an answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use super::file::{ControlSocketError, listen};
use super::request::ControlRequest;
use crate::job::{JobStatus, json as objects};

/// Clients at a time; one more is told so and sent away.
pub const MOST_CLIENTS: usize = 16;

/// Longest request, in bytes.
pub const LONGEST_LINE: u64 = 16 << 10;

/// How long a client may be silent before it is sent away.
const IDLE: Duration = Duration::from_secs(60);

/// How long a client may take to read an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(1);

/// A control socket; removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    /// Device and number of the socket's file.
    file: (u64, u64),
    listener: Arc<UnixListener>,
    connections: Arc<Connections>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Connections {
    job: JobStatus,
    is_over: AtomicBool,
    open: Mutex<Vec<Connection>>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    thread: JoinHandle<()>,
}

impl ControlSocket {
    /// Serves `job` at `path`.
    ///
    /// # Errors
    /// When another file is at the path, another process listens there already, or no socket can
    /// be made.
    pub fn start(path: &Path, job: JobStatus) -> Result<Self, ControlSocketError> {
        let failed = |error| ControlSocketError::failed(path, error);
        let listener = Arc::new(listen(path)?);
        let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
        let connections = Arc::new(Connections {
            job,
            is_over: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let mut server = Self {
            path: path.to_owned(),
            file: (metadata.dev(), metadata.ino()),
            listener: Arc::clone(&listener),
            connections: Arc::clone(&connections),
            thread: None,
        };
        let thread = thread::Builder::new()
            .name("pagelift-listen".into())
            .spawn(move || connections.accept(&listener))
            .map_err(failed)?;
        server.thread = Some(thread);
        Ok(server)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.connections.is_over.store(true, Ordering::Release);
        // An accept that waits returns an error then (unix(7) has it for connected sockets only;
        // Linux does it for those that listen as well).
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
        let open = std::mem::take(&mut *self.connections.open());
        for connection in open {
            // The other end may be closed already.
            let _ = connection.stream.shutdown(Shutdown::Both);
            let _ = connection.thread.join();
        }
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours {
            // Somebody else may remove it first.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Connections {
    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        while !self.is_over.load(Ordering::Acquire) {
            match listener.accept() {
                Ok((stream, _)) => self.begin(stream),
                // Out of descriptors, say: that passes, or the end has come.
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Starts the thread of a connection, if one can be had.
    fn begin(self: &Arc<Self>, stream: UnixStream) {
        let mut open = self.open();
        open.retain(|connection| !connection.thread.is_finished());
        let limits = stream
            .set_read_timeout(Some(IDLE))
            .and_then(|()| stream.set_write_timeout(Some(WRITE_LIMIT)));
        if limits.is_err() {
            return;
        }
        if open.len() >= MOST_CLIENTS {
            let words = format!("{MOST_CLIENTS} others are connected; try again later");
            // It may have gone.
            let _ = answer(&stream, &refusal("busy", &words));
            return;
        }
        let Ok(copy) = stream.try_clone() else {
            return;
        };
        let connections = Arc::clone(self);
        let thread = thread::Builder::new()
            .name("pagelift-client".into())
            .spawn(move || connections.serve(&stream));
        if let Ok(thread) = thread {
            open.push(Connection {
                stream: copy,
                thread,
            });
        }
    }

    /// MissingPages a client until it ends the connection, or breaks a bound.
    fn serve(&self, stream: &UnixStream) {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut reader)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line);
            // The last line may lack its end.
            if read.is_err() || line.is_empty() {
                return;
            }
            if line.len() as u64 == LONGEST_LINE {
                let words = format!("a request has at most {LONGEST_LINE} bytes");
                let _ = answer(stream, &refusal("bad-request", &words));
                return;
            }
            if answer(stream, &self.respond(&line)).is_err() {
                return;
            }
        }
    }

    fn respond(&self, line: &[u8]) -> Value {
        let controls = self.job.controls();
        match ControlRequest::parse(line) {
            Err(error) => refusal("bad-request", &error.to_string()),
            Ok(ControlRequest::Status) => json!({ "ok": true, "status": self.job.to_json() }),
            Ok(ControlRequest::Cancel) => {
                controls.cancel();
                json!({ "ok": true })
            }
            Ok(ControlRequest::Set(changes)) => {
                let made = controls
                    .change(|settings| changes.iter().try_for_each(|change| change.make(settings)));
                if let Err(error) = made {
                    return refusal("bad-request", &error);
                }
                let note = self
                    .job
                    .is_stopped()
                    .then_some("the guest is stopped already: only the bandwidth still counts");
                let settings = objects::settings(&controls.settings());
                json!({ "ok": true, "settings": settings, "note": note })
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(code: &str, message: &str) -> Value {
    json!({ "ok": false, "error": { "code": code, "message": message } })
}

fn answer(mut stream: &UnixStream, answer: &Value) -> io::Result<()> {
    stream.write_all(format!("{answer}\n").as_bytes())
}

#[cfg(test)]
mod tests;
