//! The programs of pagelift: what they take from the command line, show and print.
//!
//! | module | program |
//! |---|---|
//! | [`demo`] | `pagelift demo`: moves a built-in guest between two processes |
//! | [`launch`] | `pagelift run`: starts a QEMU whose guest can be moved |
//! | [`qemu`] | `pagelift-send` and `pagelift-receive` |
//! | [`replay`] | `pagelift replay`: runs a policy over a recorded migration |
//! | [`report`] | what they print at the end |
//! | [`advice`] | what to do about a guest that is not where it was |
//! | [`progress`] | what they show while a guest moves |
//! | [`trace`], [`recording`] | `--trace`, `--report`: what is recorded while a guest moves |
//! | [`html`], [`plot`] | `--report`, `--svg`: the page and the picture made of it |
//! | [`logging`] | `--log-level`: log events on stderr |
//! | [`watch`] | how they wait for a job |
//! | [`mod@print`] | printing that cannot fail |
//! | [`ctl`] | `pagelift ctl`: shows and changes a running migration |
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
mod own_process;
pub mod plot;
pub mod print;
pub mod progress;
pub mod qemu;
pub mod recording;
pub mod replay;
pub mod report;
pub mod settle;
pub mod trace;
pub mod watch;

pub use exit::ExitCode;
