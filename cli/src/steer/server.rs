//! The control socket of a migration: who listens, and who answers.
//!
//! One thread listens and each client has a thread of its own, so that a slow or dead client
//! waits for nobody but itself: nothing that a client does is waited for by the migration. Bounds:
//! [`MOST_CLIENTS`] at a time, lines of [`LONGEST_LINE`] bytes, `IDLE` between two requests,
//! and `WRITE_LIMIT` for a client to take an answer.
//!
//! The socket's file has mode 0600 and can be connected to from the first moment on, and is
//! removed at the end. One that a killed process has left is replaced; one that somebody listens
//! on, and whatever is not a socket, is not.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Mode, RenameFlags, renameat_with};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{Value, json};

use super::board::{self, Board};
use super::request::Request;

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
pub struct Server {
    path: PathBuf,
    /// Device and number of the socket's file.
    file: (u64, u64),
    listener: Arc<UnixListener>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    board: Board,
    is_over: AtomicBool,
    clients: Mutex<Vec<Client>>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    thread: JoinHandle<()>,
}

impl Server {
    /// Listens at `path` for those who want to steer the migration of `board`.
    ///
    /// # Errors
    /// When there is another file, somebody listens there already, or no socket can be made.
    pub fn start(path: &Path, board: Board) -> Result<Self> {
        let listener = listen(path)
            .with_context(|| format!("cannot make the control socket {}", path.display()))?;
        let metadata = std::fs::symlink_metadata(path)
            .with_context(|| format!("the control socket {}", path.display()))?;
        let listener = Arc::new(listener);
        let shared = Arc::new(Shared {
            board,
            is_over: AtomicBool::new(false),
            clients: Mutex::default(),
        });
        let mut server = Self {
            path: path.to_owned(),
            file: (metadata.dev(), metadata.ino()),
            listener: Arc::clone(&listener),
            shared: Arc::clone(&shared),
            thread: None,
        };
        let thread = thread::Builder::new()
            .name("pagelift-listen".into())
            .spawn(move || shared.listen(&listener))
            .context("cannot start a thread")?;
        server.thread = Some(thread);
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        // An accept that waits returns an error then (unix(7) has it for connected sockets only;
        // Linux does it for those that listen as well).
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
        let clients = std::mem::take(&mut *self.shared.clients());
        for client in clients {
            // Its end may be closed already.
            let _ = client.stream.shutdown(Shutdown::Both);
            let _ = client.thread.join();
        }
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours {
            // Somebody else may remove it first.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A listening socket at `path`, for its owner alone.
fn listen(path: &Path) -> Result<UnixListener> {
    match bind(path) {
        Ok(listener) => return Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            bail!("{error}; name a path in a folder that exists and is yours to write");
        }
    }
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        bail!("a file of this name is there, and is no socket; name another one, or remove it");
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!("another process listens there; name another one, or end that"),
        // What a process has left that was killed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(bind(path)?)
}

/// # Errors
/// `AlreadyExists` if there is a file at `path`.
fn bind(path: &Path) -> io::Result<UnixListener> {
    // A socket with a name refuses whoever comes until it listens (unix(7)), and who sees the name
    // may come at once: so it listens under another one first.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let early = path.with_file_name(format!(".{:x}.{number:x}", std::process::id()));
    // What a process of this number left when it was killed just here.
    let _ = std::fs::remove_file(&early);
    let address = SocketAddrUnix::new(&early)?;
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before it has a name: Linux makes the file with the mode of the socket (unix_bind), so
    // there is no moment at which others could connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    let named = rustix::net::listen(&socket, 16)
        .and_then(|()| renameat_with(CWD, &early, CWD, path, RenameFlags::NOREPLACE));
    if let Err(error) = named {
        let _ = std::fs::remove_file(&early);
        return Err(error.into());
    }
    Ok(UnixListener::from(socket))
}

impl Shared {
    fn listen(self: &Arc<Self>, listener: &UnixListener) {
        while !self.is_over.load(Ordering::Acquire) {
            match listener.accept() {
                Ok((stream, _)) => self.take_in(stream),
                // Out of descriptors, say: that passes, or the end has come.
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Gives a client a thread, if there is one to be had.
    fn take_in(self: &Arc<Self>, stream: UnixStream) {
        let mut clients = self.clients();
        clients.retain(|client| !client.thread.is_finished());
        let limits = stream
            .set_read_timeout(Some(IDLE))
            .and_then(|()| stream.set_write_timeout(Some(WRITE_LIMIT)));
        if limits.is_err() {
            return;
        }
        if clients.len() >= MOST_CLIENTS {
            let words = format!("{MOST_CLIENTS} others are connected; try again later");
            // It may have gone.
            let _ = answer(&stream, &refusal("busy", &words));
            return;
        }
        let Ok(copy) = stream.try_clone() else {
            return;
        };
        let shared = Arc::clone(self);
        let thread = thread::Builder::new()
            .name("pagelift-client".into())
            .spawn(move || shared.serve(&stream));
        if let Ok(thread) = thread {
            clients.push(Client {
                stream: copy,
                thread,
            });
        }
    }

    /// Answers a client until it goes, or has to.
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
        let controls = self.board.controls();
        match Request::parse(line) {
            Err(error) => refusal("bad-request", &error.to_string()),
            Ok(Request::Status) => json!({ "ok": true, "status": self.board.status() }),
            Ok(Request::Cancel) => {
                controls.cancel();
                json!({ "ok": true })
            }
            Ok(Request::Set(changes)) => {
                let made = controls
                    .change(|settings| changes.iter().try_for_each(|change| change.make(settings)));
                if let Err(error) = made {
                    return refusal("bad-request", &error);
                }
                let note = self
                    .board
                    .is_stopped()
                    .then_some("the guest is stopped already: only the bandwidth still counts");
                let settings = board::settings(&controls.settings());
                json!({ "ok": true, "settings": settings, "note": note })
            }
        }
    }

    fn clients(&self) -> MutexGuard<'_, Vec<Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
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
