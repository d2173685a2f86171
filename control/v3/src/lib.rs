//! libvirt's third migration protocol (v3), as values and pure state machines.
//!
//! Nothing here does I/O, reads a clock or starts a thread: time and events are arguments, so that
//! every order of events can be written down as a test. The daemon (`pageliftd`) gives these
//! machines a network, a hypervisor and a disk.
//!
//! - [`domain`]: the description of a guest, in the subset of libvirt's domain XML that is supported
//! - [`cookie`]: what the two sides tell each other through the client
//! - [`flags`], [`params`]: what was asked for, looked at as a whole
//! - [`phase`]: the order of calls on each side, and what becomes of the guest when it is broken
//! - [`safety`]: whether a guest may be moved, and what a user may overrule

pub mod cookie;
pub mod domain;
pub mod flags;
pub mod params;
pub mod phase;
pub mod safety;
mod xml;

/// A table of docs/v3.md is the one that the code makes; the test prints what has to be there.
#[cfg(test)]
fn documented(table: &str) {
    let docs = include_str!("../../../docs/v3.md");
    assert!(
        docs.contains(table),
        "docs/v3.md does not have this table:\n\n{table}"
    );
}
