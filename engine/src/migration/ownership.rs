//! Ownership of the guest, as values: the owner may run it.
//!
//! At every moment at most one side owns the guest. The types make the wrong order unwritable:
//!
//! ```text
//!   source                                                           target
//!   Ownership --stop--> StoppedOwnership
//!                           |      |
//!                        resume   hand_over(TargetReady) --> Relinquished ~~wire~~> Granted
//!                           |                                                          |
//!                       Ownership                                                    accept
//!                                                                                      |
//!                                                                                  Ownership
//! ```
//!
//! [`Relinquished`] has no way back: a source that has handed over cannot resume its guest.
//!
//! ```compile_fail
//! use pagelift_engine::migration::{Relinquished, StoppedOwnership, TargetReady};
//! fn wrong(stopped: StoppedOwnership, ready: TargetReady) {
//!     let _gone: Relinquished = stopped.hand_over(ready);
//!     let _running = stopped.resume(); // `stopped` was consumed by the hand-over
//! }
//! ```
//!
//! None of these can be copied, and a [`TargetReady`] or [`Granted`] is made only by the
//! machines, out of the peer's message.

/// The guest may run here.
#[derive(Debug)]
#[must_use = "a guest whose ownership is lost may run nowhere"]
pub struct Ownership(());

/// The guest is stopped here, and can be resumed or handed over.
#[derive(Debug)]
#[must_use = "a stopped guest must be resumed or handed over"]
pub struct StoppedOwnership(());

/// The guest belongs to the target. There is no way back from here.
#[derive(Debug)]
pub struct Relinquished(());

/// Proof that the target is prepared: it has all of the guest and waits for the source's word.
#[derive(Debug)]
pub struct TargetReady(pub(super) ());

/// Proof that the source has relinquished the guest.
#[derive(Debug)]
pub struct Granted(pub(super) ());

impl Ownership {
    /// Claims a guest that runs here already, or that was just created.
    ///
    /// Called once per guest, by the program that started it; a second claim is that program's
    /// lie.
    pub fn claim() -> Self {
        Self(())
    }

    /// The guest has been stopped.
    pub fn stop(self) -> StoppedOwnership {
        StoppedOwnership(())
    }
}

impl StoppedOwnership {
    /// The guest goes on here: the migration failed or was cancelled.
    pub fn resume(self) -> Ownership {
        Ownership(())
    }

    /// Gives the guest to a target that is ready for it.
    pub fn hand_over(self, _ready: TargetReady) -> Relinquished {
        Relinquished(())
    }
}

impl Granted {
    /// Takes over what the source has relinquished.
    pub fn accept(self) -> Ownership {
        Ownership(())
    }
}
