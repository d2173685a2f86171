//! The phases of a migration on each side, as machines without I/O.
//!
//! Source: Begin, Perform, Confirm. Target: Prepare, Finish. A client, or in a peer-to-peer migration
//! the source's daemon, goes from one to the other:
//!
//! ```text
//!     source   Idle -begin-> Begun -perform-> Performing -performed-> Performed -confirm-> Idle
//!     target          Empty -prepare-> Prepared ............................. -finish-> Running
//! ```
//!
//! libvirt's rule is that who calls last decides: a cancelled Confirm resumes the guest on the source,
//! and if it runs on the target as well, because only the answer of Finish was lost, it runs twice. Here
//! the target's decision is what counts. It is recorded before the guest's processors start
//! ([`Target::finish`]), and a source that has performed lets its guest run again only when the target has
//! said that it has dropped the guest and will never run it ([`Answer::Dropped`]). While there is no
//! answer the source holds its guest paused, says so, and asks again; a person may decide.
//!
//! A step records before it acts: after each call the caller writes [`Source::record`] or
//! [`Target::record`], where there is one, to its store, and carries the actions out after that. The last
//! action of an end ([`SourceAction::EndJob`], [`TargetAction::Destroy`]) removes the record. A daemon that
//! was killed begins again with what is recorded ([`Source::restored`], [`Target::restored`]); every
//! action may therefore be carried out twice. What binds the guest anew (Begin, Perform, Prepare) waits
//! until the actions before it are done.

mod refusal;
mod source;
mod target;

#[cfg(test)]
mod matrix;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;

pub use refusal::Refusal;
pub use source::{Mode, Source, SourceAction, SourceRecord};
pub use target::{Incoming, Target, TargetAction, TargetRecord};

/// A connection of a client, by a number that is used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(pub u64);

/// What a target answers a source that asks what has become of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The guest runs there, or is bound to.
    Runs,
    /// It does not, and never will.
    Dropped,
}
