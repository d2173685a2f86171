//! QEMU: a process for each guest, which the daemon starts, watches and finds again.
//!
//! A QEMU outlives the daemon: it is in a process group of its own, prints to a file, and has its
//! monitor at a socket in a directory of its own, by which a daemon that comes back finds it.

mod argv;
mod error;
mod leftover;
mod machines;
pub mod native;
mod process;

pub use argv::{Start, Unsupported, argv};
pub use error::QemuError;
pub use leftover::{end_leftover, is_there};
pub use machines::{Machines, version};
pub use process::{Ended, Launch, Qemu};
