//! `pagelift-send` and `pagelift-receive`: a QEMU guest moves, with pagelift carrying its RAM.
//!
//! Each is a command line, a job of the engine's, and a report. What both print is here.

mod receive;
mod send;

pub use receive::ReceiveCommand;
pub use send::SendCommand;

use std::time::Duration;

use clap::Args;
use pagelift_engine::migration::{Failure, GuestLocation, MigrationError};
use pagelift_transports::Endpoint;

use crate::advice::Side;
use crate::exit::{self, ExitCode};
use crate::report;
use crate::say;

/// What to print.
#[derive(Args, Clone, Copy, Debug)]
struct Output {
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

impl Output {
    /// Reports why nothing was started: the guest is where it was.
    fn not_started(self, error: MigrationError, side: Side) -> ExitCode {
        let guest = GuestLocation::Source;
        self.failed(&Failure { error, guest }, side, None)
    }

    /// Reports an address that cannot be used; nothing was started.
    fn no_link(
        self,
        what: &'static str,
        address: &Endpoint,
        error: std::io::Error,
        side: Side,
    ) -> ExitCode {
        let source = std::io::Error::new(error.kind(), format!("{address}: {error}"));
        self.not_started(MigrationError::Link { what, source }, side)
    }

    /// Reports that nothing was begun: the guest is where it was.
    fn not_begun(self, error: &anyhow::Error) -> ExitCode {
        let words = exit::words(error);
        if self.json {
            say::result(report::not_begun_json(&words));
        }
        say::note(format_args!("error: {words}\nthe guest is on the source"));
        ExitCode::Failed
    }

    /// Reports a migration that did not complete.
    fn failed(self, failure: &Failure, side: Side, freed_after: Option<Duration>) -> ExitCode {
        if self.json {
            say::result(report::failed_json(failure, side, freed_after));
        }
        say::note(report::failed_text(failure, side, freed_after));
        ExitCode::of(failure)
    }
}
