//! The programs of pagelift: what they take from the command line, show and print.
//!
//! | module | program |
//! |---|---|
//! | [`demo`] | `pagelift demo`: a guest of our own moves between two processes |
//! | [`launch`] | `pagelift run`: starts a QEMU whose guest can be moved |
//! | [`qemu`] | `pagelift-send` and `pagelift-receive` |
//! | [`replay`] | `pagelift replay`: runs a policy over a recorded migration |
//! | [`report`] | what all of them print at the end |
//! | [`advice`] | the part of it that says what to do now |
//! | [`progress`] | what they show while a guest moves |
//! | [`recording`], [`html`] | `--report`: what is kept meanwhile, and the page made of it |
//! | [`logging`] | `--log-level` |
//! | [`watch`] | how they wait for a job |
//! | [`say`] | how they print, whether or not anybody reads |
//! | [`ctl`] | `pagelift ctl`: asks and changes a migration that runs |
//!
//! Progress goes to stderr, results to stdout. Exit codes are a contract, see [`ExitCode`].

pub mod advice;
pub mod ctl;
pub mod demo;
pub mod exit;
pub mod html;
pub mod launch;
pub mod logging;
pub mod options;
pub mod own_memory;
pub mod plot;
pub mod progress;
pub mod qemu;
pub mod recording;
pub mod replay;
pub mod report;
pub mod say;
pub mod trace;
pub mod watch;

pub use exit::ExitCode;
