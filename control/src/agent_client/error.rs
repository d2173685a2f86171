//! Errors of the agent: the reason, and the way out.

use std::io;

use pagelift_agent_protocol::{DecodeError, ErrorCode};

use super::TIMEOUT;

/// Why the agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// There is no such process.
    #[error("there is no process {pid}; check the process id of QEMU")]
    NoProcess {
        /// The process asked for.
        pid: u32,
    },
    /// The process has no agent.
    #[error(
        "no agent in QEMU process {pid}: start it with `pagelift run -- qemu-system-x86_64 ...`"
    )]
    NoAgent {
        /// The process asked for.
        pid: u32,
    },
    /// The kernel does not let this process look into QEMU's.
    #[error(
        "the kernel does not let this process look into QEMU process {pid}{}: run pagelift as \
         QEMU's user, in the same user namespace, or as root with CAP_SYS_PTRACE (a QEMU that \
         changed its user by itself, with -run-with user= or -runas, is open to root alone)",
        .user.map_or_else(String::new, |user| format!(" of user {user}"))
    )]
    NotPermitted {
        /// The process asked for.
        pid: u32,
        /// Its user, if that can be seen.
        user: Option<u32>,
    },
    /// The socket that the process holds is another's.
    #[error(
        "the agent's socket of process {pid} is that of process {holder}: end that process and \
         start QEMU anew (if QEMU is in a container, run pagelift in the same pid namespace)"
    )]
    WrongProcess {
        /// The process asked for.
        pid: u32,
        /// The process at the other end, 0 if it is outside this pid namespace.
        holder: u32,
    },
    /// Another client is connected.
    #[error("the agent in process {pid} is {text}; wait until that migration has ended")]
    Busy {
        /// The process asked for.
        pid: u32,
        /// The agent's words, which name the other client.
        text: String,
    },
    /// The agent refused, for the reason it gives.
    #[error("the agent in process {pid} refused: {text}")]
    Refused {
        /// The process asked for.
        pid: u32,
        /// The kind of refusal.
        code: ErrorCode,
        /// The reason and the way out.
        text: String,
    },
    /// The rollback script breaks a limit of the protocol.
    #[error("this rollback script cannot be set: {0}")]
    BadRollback(#[source] DecodeError),
    /// A lease or a record breaks a limit of the protocol.
    #[error("this cannot be recorded: {0}")]
    BadRecord(#[source] DecodeError),
    /// The throttle breaks a limit of the protocol.
    #[error("this throttle cannot be set: {0}")]
    BadThrottle(#[source] DecodeError),
    /// The other end does not keep to the protocol.
    #[error("the agent in process {pid} does not keep to the protocol: {source}")]
    Protocol {
        /// The process asked for.
        pid: u32,
        /// What is wrong with its bytes.
        source: DecodeError,
    },
    /// The agent's reply is not one to the request.
    #[error(
        "the agent in process {pid} answered {request} with {got}; \
         use pagelift and its agent from the same release"
    )]
    Unexpected {
        /// The process asked for.
        pid: u32,
        /// What was asked.
        request: &'static str,
        /// What came instead.
        got: String,
    },
    /// The agent did not answer within [`TIMEOUT`].
    #[error(
        "the agent in process {pid} did not answer within {} s; is QEMU stopped by a signal \
         or a debugger?",
        TIMEOUT.as_secs()
    )]
    Timeout {
        /// The process asked for.
        pid: u32,
    },
    /// It did not answer an earlier request, and is not asked any more over this connection.
    #[error("the agent in process {pid} has left a request unanswered, and is not asked any more")]
    Silent {
        /// The process asked for.
        pid: u32,
    },
    /// The connection failed or ended; QEMU may have.
    #[error("the connection to the agent in process {pid} failed: {source}")]
    Io {
        /// The process asked for.
        pid: u32,
        /// The failure.
        source: io::Error,
    },
}
