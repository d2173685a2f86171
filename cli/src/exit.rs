//! Exit codes: what a script can rely on.

use pagelift_engine::migration::{Failure, GuestLocation, MigrationError};
use pagelift_engine::pipeline::CancelToken;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::print;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The guest moved.
    Completed = 0,
    /// The guest did not move and runs on the source, or has ended there by itself.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Somebody asked for the end; the guest runs on the source.
    Cancelled = 3,
    /// The guest is not on the source as before, or that cannot be known: the connection was
    /// lost during the hand-over, or the target has the guest and cannot run it. The message
    /// says what to look at.
    Unknown = 4,
}

impl ExitCode {
    /// The code for a migration that did not complete.
    pub fn of(failure: &Failure) -> Self {
        match (&failure.error, failure.guest) {
            (_, GuestLocation::Unknown | GuestLocation::Target) => Self::Unknown,
            (MigrationError::Cancelled, GuestLocation::Source) => Self::Cancelled,
            (_, GuestLocation::Source) => Self::Failed,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// The exit code of a program's result; an error is printed.
pub fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        print::note(format_args!("error: {}", words(&error)));
        ExitCode::Failed
    })
}

/// An error and its causes; a cause that the error itself ends with is not said again.
pub fn words(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text += ": ";
            text += &cause;
        }
    }
    text
}

/// A token that SIGINT and SIGTERM cancel. A second signal of either kind ends the program at
/// once, as if the first had not been caught.
///
/// # Errors
/// When no handler can be installed.
pub fn cancel_on_signal() -> anyhow::Result<CancelToken> {
    let cancel = CancelToken::default();
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset, sets it, and goes on.
        flag::register_conditional_default(signal, cancel.flag())?;
        flag::register(signal, cancel.flag())?;
    }
    // A flag wakes nobody.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let token = cancel.clone();
    std::thread::Builder::new()
        .name("pagelift-signal".into())
        .spawn(move || signals.forever().for_each(|_| token.cancel()))?;
    Ok(cancel)
}
