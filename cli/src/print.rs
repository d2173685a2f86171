//! Printing that cannot fail.
//!
//! `println!` panics when nothing reads any more: a migration must not end, nor its exit code lie,
//! because a pager was closed or a log's file system is full. What cannot be written is dropped.
//!
//! Nor does a terminal obey what is printed: words from outside may be among it, and what is not
//! printable is escaped here, whoever forgot to.

use std::fmt::Display;
use std::io::{Write, stderr, stdout};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;
use pagelift_engine::plain_text;

/// The line that is rewritten on the terminal, if there is one: it makes room for others.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// A line of the result, on stdout.
pub fn result(line: impl Display) {
    let line = plain_text::lines(&line.to_string());
    let mut stdout = stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// A line for people who watch, on stderr.
pub fn note(line: impl Display) {
    let line = plain_text::lines(&line.to_string());
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let print = || {
        let _ = writeln!(stderr().lock(), "{line}");
    };
    match bar {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

/// From now on notes are printed above this line, or there is none any more.
pub(crate) fn keep_off(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}
