//! Printing that cannot fail.
//!
//! `println!` panics when nobody reads any more: a migration must not end, nor its exit code lie,
//! because a pager was closed or a log's file system is full. What cannot be written is dropped.

use std::fmt::Display;
use std::io::{Write, stderr, stdout};

/// A line of the result, on stdout.
pub fn result(line: impl Display) {
    let mut stdout = stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// A line for people who watch, on stderr.
pub fn note(line: impl Display) {
    let _ = writeln!(stderr().lock(), "{line}");
}
