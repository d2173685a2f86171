//! What can go wrong between us and a QEMU's monitor.

use std::time::Duration;

use super::event::MAX_EVENTS;

/// Why a QMP call failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket could not be reached.
    #[error(
        "{address}: cannot connect to QEMU's QMP socket: {source}; name the path of a running \
         QEMU's -qmp unix:PATH,server=on,wait=off"
    )]
    Connect {
        /// The socket, as the user named it.
        address: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A descriptor was to be passed over TCP.
    #[error(
        "{0}: file descriptors can be passed through a unix socket only; \
         give QEMU -qmp unix:PATH,server=on,wait=off"
    )]
    DescriptorOverTcp(String),
    /// More events came than are kept, and this reader had not read the oldest.
    #[error("{lost} QMP events were lost: more than {MAX_EVENTS} came before they were read")]
    EventsLost {
        /// How many were not seen.
        lost: u64,
    },
    /// The connection ended.
    #[error("{address}: the connection to QEMU is lost: {reason}")]
    Lost {
        /// The socket, as the user named it.
        address: String,
        /// End of file (QEMU has exited), or the kernel's reason.
        reason: String,
    },
    /// QEMU sent what is no QMP.
    #[error("{address}: this is no QMP socket: {reason}")]
    Malformed {
        /// The socket, as the user named it.
        address: String,
        /// What is wrong with the line.
        reason: String,
    },
    /// The socket took the connection, but nobody spoke.
    #[error(
        "{address}: no greeting within {waited:?}: another client holds this QMP socket; \
         give QEMU a second -qmp"
    )]
    NoGreeting {
        /// The socket, as the user named it.
        address: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The process behind the monitor could not be found.
    #[error("{address}: QEMU's process cannot be found: {reason}")]
    Process {
        /// The socket, as the user named it.
        address: String,
        /// What was looked for, and what to do.
        reason: String,
    },
    /// QEMU understood the command and refused it.
    #[error("QEMU refuses {command}: {desc} ({class})")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's error class, such as `GenericError` or `CommandNotFound`.
        class: String,
        /// QEMU's own words.
        desc: String,
    },
    /// QEMU did not answer, or the event did not come.
    #[error("{address}: {what} did not come within {waited:?}")]
    Timeout {
        /// The socket, as the user named it.
        address: String,
        /// What was waited for.
        what: String,
        /// How long was waited.
        waited: Duration,
    },
    /// QEMU answered, but not with what its documentation promises.
    #[error("QEMU's answer to {command} lacks {missing}")]
    Unexpected {
        /// The command.
        command: String,
        /// The member that is missing or of another type.
        missing: String,
    },
}

impl QmpError {
    /// Whether the connection is gone, so that no later call on it can succeed.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Malformed { .. })
    }

    /// QEMU's own words, when it was QEMU that refused.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { desc, .. } => Some(desc),
            _ => None,
        }
    }
}
