//! `pagelift-send` and `pagelift-receive`: a QEMU guest moves, with pagelift carrying its RAM.
//!
//! Each is a command line, a job of the engine's, and a report.

mod receive;
mod send;

pub use receive::ReceiveCommand;
pub use send::SendCommand;
