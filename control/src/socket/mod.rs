//! The control socket: how a running migration is watched, changed and cancelled.
//!
//! ```text
//!   pagelift-send --control PATH             pagelift ctl PATH set downtime=100ms
//!     ControlSocket: a thread accepts,         ask(): one line,
//!     one serves each client  <-- JSON lines -->  one answer
//!     ControlRequest: what a line asks for
//! ```
//!
//! The lines are a contract: `docs/control-socket.md`. What `status` answers is the job's
//! [`JobStatus`](crate::job::JobStatus).

mod client;
mod file;
pub mod request;
mod server;

pub use client::{NoAnswer, ask};
pub use file::ControlSocketError;
pub use request::ControlRequest;
pub use server::{ControlSocket, LONGEST_LINE, MOST_CLIENTS};
