//! The client's side of the agent inside QEMU.
//!
//! An [`AgentClient`] is one connection; the agent serves one at a time. As long as it lives
//! the agent keeps the rollback script that was set over it. When it ends, however it ends
//! (`drop`, an error, `kill -9`), the agent runs the script unless it was cleared before. So
//! clear the script before you drop the client.
//!
//! How the agent is reached, and who may, says `connect`.
//!
//! Every call takes at most [`TIMEOUT`] and is answered in microseconds ordinarily. One that is not
//! answered in time ends the connection: its late reply must not answer the next. While the
//! agent runs the rollback script of the client before it takes no other;
//! [`hello`](AgentClient::hello) waits for that.

mod connect;
mod error;
mod hand_over;
mod throttle;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

pub use error::AgentError;
use pagelift_agent_protocol::{
    AgentInfo, ErrorCode, HEADER_BYTES, Header, Reply, Request, RollbackScript, RollbackStep,
};
use pagelift_engine::plain_text;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, Shutdown, recvmsg, send,
    shutdown,
};

/// Longest time that one call waits for the agent: more than the 10 s of a rollback script.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// Pause between two tries while the agent undoes another client's migration.
const RETRY: Duration = Duration::from_millis(20);

/// A userfaultfd of QEMU's address space, its API not negotiated yet.
///
/// `UFFDIO_API`, `UFFDIO_REGISTER` and the others act on QEMU's memory although this process
/// calls them. Closing it ends its registrations and their write protection.
#[derive(Debug)]
pub struct QemuUserfaultfd {
    /// The descriptor: close-on-exec, non-blocking, the only reference there is.
    pub fd: OwnedFd,
    /// Faults raised inside the kernel are not delivered through it: good for asynchronous
    /// write-protect tracking, of no use for post-copy.
    pub user_mode_only: bool,
}

/// A connection to the agent inside a QEMU process.
#[derive(Debug)]
pub struct AgentClient {
    pid: u32,
    socket: OwnedFd,
    /// A reply is overdue: the connection is over, so that it is never taken for another one's.
    is_silent: bool,
    /// What the agent offers, once asked.
    features: Option<u64>,
}

impl AgentClient {
    /// Connects to the agent in the QEMU process `pid`.
    ///
    /// The agent is there from the moment QEMU maps guest RAM: at the latest when QEMU has
    /// answered a QMP command (the monitor's socket alone exists earlier).
    ///
    /// # Errors
    /// When there is no such process or no agent in it, or the kernel does not let us look into
    /// it. That another client is connected is found out by the first request only.
    pub fn connect(pid: u32) -> Result<Self, AgentError> {
        Ok(Self {
            pid,
            socket: connect::to_agent(pid)?,
            is_silent: false,
            features: None,
        })
    }

    /// The QEMU process at the other end.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks who the agent is and what it offers. If it is just undoing the migration of a client
    /// that is gone, this waits until it has, and connects again.
    ///
    /// # Errors
    /// As every request: a refusal, a broken connection, no answer in time.
    pub fn hello(&mut self) -> Result<AgentInfo, AgentError> {
        let deadline = Instant::now() + TIMEOUT;
        let answer = loop {
            match self.call(&Request::Hello) {
                Err(AgentError::Refused {
                    code: ErrorCode::Undoing,
                    ..
                }) if Instant::now() < deadline => {
                    std::thread::sleep(RETRY);
                    self.socket = connect::to_agent(self.pid)?;
                }
                answer => break answer?,
            }
        };
        match answer {
            (Reply::Hello(hello), _) => {
                self.features = Some(hello.features);
                Ok(hello)
            }
            (other, _) => Err(self.unexpected("HELLO", &other)),
        }
    }

    /// Obtains a new userfaultfd of QEMU's address space.
    ///
    /// # Errors
    /// [`AgentError::Refused`] with the settings to change when the kernel gives none, and as
    /// every request.
    pub fn userfaultfd(&mut self) -> Result<QemuUserfaultfd, AgentError> {
        match self.call(&Request::GetUserfaultfd)? {
            (Reply::Userfaultfd(reply), Some(fd)) => Ok(QemuUserfaultfd {
                fd,
                user_mode_only: reply.user_mode_only,
            }),
            (other, _) => Err(self.unexpected("GET_USERFAULTFD", &other)),
        }
    }

    /// Has the agent take `steps` at QEMU's monitor `qmp_path` when this connection ends
    /// with the script still set. Replaces an earlier script.
    ///
    /// `qmp_path` is the absolute path of a unix socket that QEMU itself listens on, the one
    /// this client uses or another that is free when the client is gone. A step that fails does
    /// not stop the next.
    ///
    /// A script that resumes the guest must be cleared before the target may be given the right
    /// to run: afterwards it would make the guest run twice. In `pre-switchover` the step
    /// [`CancelMigration`](RollbackStep::CancelMigration) is enough and safest, as it resumes the
    /// guest itself; [`Continue`](RollbackStep::Continue) resumes a source whose migration has
    /// completed, too.
    ///
    /// # Errors
    /// [`AgentError::BadRollback`] beyond the limits of the protocol (path 107 bytes, 64 steps,
    /// 64 KiB together), a refusal with the code `NoMonitor` when QEMU does not listen there, and
    /// as every request. After any other error the script may or may not be set.
    pub fn set_rollback(
        &mut self,
        qmp_path: &Path,
        steps: &[RollbackStep],
    ) -> Result<(), AgentError> {
        let path = qmp_path.as_os_str().as_bytes().to_vec();
        let script = RollbackScript::new(path, steps.to_vec()).map_err(AgentError::BadRollback)?;
        match self.call(&Request::SetRollback(script))? {
            (Reply::RollbackSet, _) => Ok(()),
            (other, _) => Err(self.unexpected("SET_ROLLBACK", &other)),
        }
    }

    /// Makes the agent forget the rollback script. After `Ok` it will not run, whatever happens.
    ///
    /// # Errors
    /// As every request. The script may or may not be void then.
    pub fn clear_rollback(&mut self) -> Result<(), AgentError> {
        match self.call(&Request::ClearRollback)? {
            (Reply::RollbackCleared, _) => Ok(()),
            (other, _) => Err(self.unexpected("CLEAR_ROLLBACK", &other)),
        }
    }

    fn call(&mut self, request: &Request) -> Result<(Reply, Option<OwnedFd>), AgentError> {
        self.call_until(Instant::now() + TIMEOUT, request)
    }

    fn call_until(
        &mut self,
        deadline: Instant,
        request: &Request,
    ) -> Result<(Reply, Option<OwnedFd>), AgentError> {
        if self.is_silent {
            return Err(AgentError::Silent { pid: self.pid });
        }
        let answer = self.ask(deadline, request);
        if matches!(answer, Err(AgentError::Timeout { .. })) {
            self.is_silent = true;
            // One that has ended is as good.
            let _ = shutdown(&self.socket, Shutdown::Both);
        }
        answer
    }

    fn ask(
        &self,
        deadline: Instant,
        request: &Request,
    ) -> Result<(Reply, Option<OwnedFd>), AgentError> {
        let sent = self.send(&request.encode());
        // An agent that sends a client away closes at once: its reason is there to be read
        // although sending failed.
        let received = self.receive(deadline);
        let (reply, fd) = match (sent, received) {
            (_, Ok(received)) => received,
            (Err(error), Err(_)) | (Ok(()), Err(error)) => return Err(error),
        };
        let Reply::Error(error) = reply else {
            return Ok((reply, fd));
        };
        let (pid, text) = (self.pid, plain_text::line(&error.text));
        Err(match error.code {
            ErrorCode::Busy => AgentError::Busy { pid, text },
            code => AgentError::Refused { pid, code, text },
        })
    }

    fn send(&self, mut bytes: &[u8]) -> Result<(), AgentError> {
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.io_error(errno)),
            }
        }
        Ok(())
    }

    fn receive(&self, deadline: Instant) -> Result<(Reply, Option<OwnedFd>), AgentError> {
        let protocol = |source| AgentError::Protocol {
            pid: self.pid,
            source,
        };
        let mut fd = None;
        let mut header = [0; HEADER_BYTES];
        self.receive_exact(&mut header, &mut fd, deadline)?;
        let header = Header::decode(&header).map_err(protocol)?;
        let mut payload = vec![0; header.payload_bytes];
        self.receive_exact(&mut payload, &mut fd, deadline)?;
        let reply = Reply::decode(header.kind, &payload).map_err(protocol)?;
        Ok((reply, fd))
    }

    /// Fills `bytes`; a descriptor that comes along goes to `fd`.
    fn receive_exact(
        &self,
        mut bytes: &mut [u8],
        fd: &mut Option<OwnedFd>,
        deadline: Instant,
    ) -> Result<(), AgentError> {
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(AgentError::Timeout { pid: self.pid });
            }
            set_socket_timeout(&self.socket, Timeout::Recv, Some(left))
                .map_err(|errno| self.io_error(errno))?;
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let result = recvmsg(
                &self.socket,
                &mut [io::IoSliceMut::new(bytes)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            );
            let count = match result {
                Ok(message) if message.bytes == 0 => {
                    return Err(AgentError::Io {
                        pid: self.pid,
                        source: io::ErrorKind::UnexpectedEof.into(),
                    });
                }
                Ok(message) => message.bytes,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(self.io_error(errno)),
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    *fd = descriptors.last();
                }
            }
            bytes = &mut bytes[count..];
        }
        Ok(())
    }

    fn io_error(&self, errno: Errno) -> AgentError {
        match errno {
            Errno::AGAIN => AgentError::Timeout { pid: self.pid },
            errno => AgentError::Io {
                pid: self.pid,
                source: errno.into(),
            },
        }
    }

    fn unexpected(&self, request: &'static str, got: &Reply) -> AgentError {
        AgentError::Unexpected {
            pid: self.pid,
            request,
            got: format!("{got:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_late_reply_answers_nothing() {
        let (ours, mut agent) = UnixStream::pair().unwrap();
        let mut client = AgentClient {
            pid: 7,
            socket: ours.into(),
            is_silent: false,
            features: None,
        };
        let soon = Instant::now() + Duration::from_millis(20);
        let late = client.call_until(soon, &Request::ClearRollback);
        assert!(matches!(late, Err(AgentError::Timeout { pid: 7 })));
        // What was asked is heard to its end, and then that nobody waits for the reply.
        let mut heard = Vec::new();
        agent.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, Request::ClearRollback.encode());
        let reply = Reply::RollbackCleared.encode();
        let kind = agent.write(&reply).unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::BrokenPipe);
        let next = client.clear_rollback();
        assert!(matches!(next, Err(AgentError::Silent { pid: 7 })));
    }
}
