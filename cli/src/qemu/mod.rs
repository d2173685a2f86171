//! `pagelift-send` and `pagelift-receive`: a QEMU guest moves, with pagelift carrying its RAM.
//!
//! Each is a command line, a job of the engine's, and a report.

mod receive;
mod send;

pub use receive::ReceiveCommand;
pub use send::SendCommand;

use pagelift_control::qmp::Address;
use pagelift_control::settle;
use pagelift_engine::migration::GuestLocation;

/// Where the guest is that no program of ours has touched: on the source, unless its QEMU shows that
/// a migration before has left it in doubt.
fn place_of(qmp: &Address) -> GuestLocation {
    match settle::Side::look(qmp) {
        Ok(side) if side.is_in_doubt() => GuestLocation::Unknown,
        _ => GuestLocation::Source,
    }
}
