//! A receiver that the source starts on another host, through ssh.
//!
//! ```text
//! pagelift-send --to ssh://host                        pagelift-receive --start --listen stdio:
//!   reads the guest's command line from its QEMU
//!   ssh host pagelift-receive --start ...   ------>
//!   request: command line, folder, files    ------>    looks for programs, folder, files
//!                                                      starts QEMU, which waits for a guest
//!                                           <------    answer: ready, or what is missing
//!   a migration like any other              <----->    over the same byte stream
//! ```
//!
//! ssh authenticates and encrypts. Whatever was started ends with the connection, unless the guest has
//! arrived, or may have: the QEMU is killed when the move fails, and ssh ends with the link.
//! (`docs/decisions/074-one-command-over-ssh.md`)
//!
//! | module | holds |
//! |---|---|
//! | `command` | the command line that a guest was started with, and the files on it |
//! | `message` | request and answer |
//! | `ssh` | where to go, and the source's side |
//! | `arrival` | the target's side: checks, and the QEMU that is started |

mod arrival;
mod command;
mod message;
mod ssh;

pub use arrival::Arrival;
pub use command::{GuestCommand, RunCommand};
pub use ssh::{SshLink, SshTarget, SshTargetError};

/// Why a receiver on another host was not started.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The guest's command line is not known.
    #[error("cannot tell how this guest's QEMU was started: {0}")]
    Command(String),
    /// ssh, or the program it was to start.
    #[error("{target}: {why}")]
    Ssh {
        /// Where it was to be started.
        target: String,
        /// What went wrong.
        why: String,
    },
    /// The other host lacks something.
    #[error("{target} lacks what the guest needs: {}", what.join("; "))]
    Missing {
        /// The host.
        target: String,
        /// What.
        what: Vec<String>,
    },
    /// On the target.
    #[error("cannot start the guest's QEMU here: {0}")]
    Arrival(String),
}
