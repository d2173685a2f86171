//! A client of QMP, QEMU's machine protocol.
//!
//! QMP is one JSON object per line: a greeting from QEMU, then commands from us, each answered by
//! one line, with events in between whenever QEMU has something to tell (QEMU's "QMP protocol
//! specification"). This module connects, negotiates, executes commands, passes file descriptors
//! and hands out events. It knows no command's meaning but the few it needs for that; what a
//! migration does with them is in [`qemu`](crate::driver::qemu).
//!
//! A [`Qmp`] is a handle that may be cloned: any number of threads may execute commands while
//! others wait for events. One thread reads the socket; it ends with the last handle.
//!
//! Invariants:
//! - every wait has a limit, the ones for the socket to take our bytes included;
//! - a line of QEMU's is at most [`MAX_LINE_BYTES`] long and at most [`MAX_EVENTS`] events are
//!   kept, so QEMU cannot make us grow;
//! - QEMU's own refusals ([`QmpError::Refused`]) are told apart from a broken connection;
//! - no event is lost in silence: a reader that is too slow is told so.
//!
//! Cost: a command or event wakes the reading thread and then the waiting one, some tens of
//! microseconds in all on an idle machine.

mod address;
mod client;
mod error;
mod event;
mod events;
mod inbox;
mod process;

pub use address::Address;
pub use client::{COMMAND_TIMEOUT, GREETING_TIMEOUT, Qmp};
pub use error::QmpError;
pub use event::{Event, MAX_EVENTS, Timestamp};
pub use events::Events;
pub use inbox::MAX_LINE_BYTES;
