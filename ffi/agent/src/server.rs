//! The agent's thread: takes one client at a time and answers its requests.
//!
//! The client's socket is read without blocking, so that a client that stalls inside a message
//! does not keep a second one from hearing that the agent is busy. A rollback script runs in a
//! thread of its own: the agent answers meanwhile, and takes no client before it is done.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pagelift_agent_protocol::{ErrorCode, ErrorReply, Reply};

use crate::client::{Client, Gone};
use crate::door::Door;
use crate::journal::Journal;
use crate::rollback::TOTAL;
use crate::{complain, doubt, signal_mask, socket};

/// Its frames are small and its buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;

/// A reply fits the socket's buffer; a client that lets it fill up is dropped after this time.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause after a failure that would otherwise repeat at once, such as too many open files.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Makes the socket and starts the thread; says on standard error if that fails.
///
/// The socket listens when this returns, so that who finds QEMU's RAM mapped finds the agent.
pub(crate) fn start(pid: u32) {
    if let Err(error) = try_start(pid) {
        complain(format_args!(
            "this guest cannot be migrated: the agent's socket or its thread: {error}; let \
             TMPDIR name a folder that QEMU may write to"
        ));
    }
}

fn try_start(pid: u32) -> io::Result<()> {
    let door = Door::open()?;
    // Signals are QEMU's: a thread inherits the mask of its creator, so that none is ever
    // delivered to it, not even between its first instruction and a call of its own.
    let previous_mask = signal_mask::block_all()?;
    let started = thread::Builder::new()
        .name("pagelift-agent".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| Server::new(pid, door).run())).is_err() {
                complain(format_args!("stopped by a fault of its own; QEMU runs on"));
            }
        });
    signal_mask::restore(&previous_mask);
    started.map(drop)
}

struct Server {
    pid: u32,
    door: Door,
    client: Option<Client>,
    /// The script of the client before, and that client's process.
    rollback: Option<(JoinHandle<()>, libc::pid_t)>,
    journal: Journal,
}

impl Server {
    fn new(pid: u32, door: Door) -> Self {
        Self {
            pid,
            door,
            client: None,
            rollback: None,
            journal: Journal::default(),
        }
    }

    fn run(&mut self) -> ! {
        loop {
            let client = self.client.as_ref().map(|client| client.stream().as_fd());
            let limit = self.client.as_ref().and_then(Client::time_left);
            let waited = socket::wait(self.door.listener.as_fd(), client, limit);
            let Ok((has_caller, has_bytes)) = waited else {
                self.end_what_is_over();
                thread::sleep(BACK_OFF);
                continue;
            };
            // The client first: if it has just left, the caller finds its place free.
            if has_bytes {
                self.hear_client();
            }
            self.end_what_is_over();
            if has_caller {
                match self.door.listener.accept() {
                    Ok((stream, _)) => self.welcome(stream),
                    Err(_) => thread::sleep(BACK_OFF),
                }
            }
        }
    }

    /// Ends what a client has held for too long: its place, or a throttle.
    fn end_what_is_over(&mut self) {
        if let Some(client) = &mut self.client
            && let Err(Gone) = client.end_what_is_over()
        {
            self.client_is_gone();
        }
    }

    /// Takes a caller on, or sends it away with the reason.
    fn welcome(&mut self, stream: UnixStream) {
        let Ok(caller) = socket::credentials(stream.as_fd()) else {
            return;
        };
        if stream.set_write_timeout(Some(SEND_TIMEOUT)).is_err() {
            return;
        }
        if let Some(refusal) = self.busy() {
            let _ = socket::send(&stream, &Reply::Error(refusal).encode(), None);
            return;
        }
        self.client = Some(Client::new(stream, caller.pid));
    }

    /// Why no client can be taken on now.
    fn busy(&self) -> Option<ErrorReply> {
        if let Some(client) = &self.client {
            return Some(ErrorReply {
                code: ErrorCode::Busy,
                text: format!("busy: pid {} is using it", client.pid()),
            });
        }
        let (thread, pid) = self.rollback.as_ref()?;
        (!thread.is_finished()).then(|| ErrorReply {
            code: ErrorCode::Undoing,
            text: format!("it undoes the migration of pid {pid}, which is gone"),
        })
    }

    /// Reads what the client sent and answers it.
    fn hear_client(&mut self) {
        if let Some(client) = &mut self.client
            && let Err(Gone) = client.hear(self.pid, &mut self.journal)
        {
            self.client_is_gone();
        }
    }

    /// Releases what the client throttles and runs its rollback script. A guest that may be another's
    /// is kept from being started.
    fn client_is_gone(&mut self) {
        let Some(client) = self.client.take() else {
            return;
        };
        let pid = client.pid();
        let (rollback, in_doubt) = (client.leave(), self.journal.in_doubt());
        if rollback.is_some() {
            complain(format_args!(
                "the client, pid {pid}, is gone: running its rollback script"
            ));
        } else if in_doubt.is_none() {
            return;
        }
        let work = Arc::new(move || {
            // A client that comes back waits for both.
            let deadline = Instant::now() + TOTAL;
            // First: whoever is at the monitor next may be the one who types `cont`.
            if let Some(monitor) = &in_doubt {
                doubt::hold(monitor, deadline);
            }
            if let Some(rollback) = &rollback {
                rollback.run(deadline);
            }
        });
        // The thread inherits the mask of this one: no signal is QEMU's to lose.
        let started = thread::Builder::new()
            .name("pagelift-undo".into())
            .stack_size(STACK_BYTES)
            .spawn({
                let work = Arc::clone(&work);
                move || work()
            });
        match started {
            Ok(thread) => self.rollback = Some((thread, pid)),
            // Late answers are better than a guest that stands still.
            Err(_) => work(),
        }
    }
}
