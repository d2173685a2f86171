//! The options that say what to print, and the printing.
//!
//! A report goes to stdout when the guest moved. When it did not, the object of `--json` goes to
//! stdout and the lines for people to stderr.

use std::time::Duration;

use clap::Args;
use pagelift_control::driver::Side;
use pagelift_engine::migration::{Failure, GuestLocation, MigrationError, Report, TargetStatus};
use serde_json::Value;

use super::{Extra, details, json, stages, summary};
use crate::exit::{self, ExitCode};
use crate::print;

/// What to print.
#[derive(Args, Clone, Debug)]
pub struct Output {
    /// Print the report as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print all that was measured, not only the summary
    #[arg(long)]
    pub details: bool,
    /// Show no progress
    #[arg(long)]
    pub quiet: bool,
}

impl Output {
    /// Reports a guest that has left. `more` adds to the object of `--json`.
    pub fn completed(
        &self,
        report: &Report,
        extra: &Extra,
        more: impl FnOnce(&mut Value),
    ) -> ExitCode {
        if self.json {
            let mut object = json::completed(report, extra);
            more(&mut object);
            print::result(object);
        } else {
            print::result(summary::completed(report, extra));
            if self.details {
                print::result(details::completed(report, extra));
            }
        }
        ExitCode::Completed
    }

    /// Reports a guest that has arrived in `total`; `object` is printed with `--json`.
    pub fn received(&self, status: &TargetStatus, total: Duration, object: &Value) -> ExitCode {
        if self.json {
            print::result(object);
        } else {
            print::result(summary::received(status, total));
            if self.details {
                print::result(stages::target_text(&status.stages));
            }
        }
        ExitCode::Completed
    }

    /// Reports a migration that did not complete.
    pub fn failed(&self, failure: &Failure, side: Side, extra: &Extra) -> ExitCode {
        if self.json {
            print::result(json::failed(failure, side, extra.freed_after));
        }
        print::note(summary::failed(failure, side, extra));
        if self.details
            && let Some(status) = &extra.status
        {
            print::note(stages::source_text(&status.stages));
        }
        ExitCode::of(failure)
    }

    /// Reports why nothing was started, and where the guest is.
    pub fn not_started(&self, error: MigrationError, guest: GuestLocation, side: Side) -> ExitCode {
        self.failed(&Failure { error, guest }, side, &Extra::default())
    }

    /// Reports that nothing was begun: the guest is where it was.
    pub fn not_begun(&self, error: &anyhow::Error) -> ExitCode {
        let words = exit::words(error);
        if self.json {
            print::result(json::not_begun(&words));
        }
        print::note(format_args!("error: {words}\nthe guest is on the source"));
        ExitCode::Failed
    }
}
