//! The right to run the guest, as values.
//!
//! At every moment at most one side holds it. The types make the wrong order unwritable:
//!
//! ```text
//!   source                                       target
//!   RunRight --stop--> StoppedRight
//!                       |      |
//!                    resume   hand_over(TargetReady) --> HandedOver ~~wire~~> Granted
//!                       |                                                       |
//!                    RunRight                                                 accept
//!                                                                               |
//!                                                                            RunRight
//! ```
//!
//! [`HandedOver`] has no way back: a source that has handed over cannot resume its guest.
//!
//! ```compile_fail
//! use pagelift_engine::migration::{HandedOver, StoppedRight, TargetReady};
//! fn wrong(stopped: StoppedRight, ready: TargetReady) {
//!     let _gone: HandedOver = stopped.hand_over(ready);
//!     let _running = stopped.resume(); // `stopped` was consumed by the hand-over
//! }
//! ```
//!
//! None of these can be copied, and a [`TargetReady`] or [`Granted`] is made only by the
//! machines, out of the peer's message.

/// The guest may run here.
#[derive(Debug)]
#[must_use = "losing the right to run leaves the guest nowhere"]
pub struct RunRight(());

/// The guest is stopped here, and could be resumed or handed over.
#[derive(Debug)]
#[must_use = "a stopped guest must be resumed or handed over"]
pub struct StoppedRight(());

/// The guest belongs to the target. There is no way back from here.
#[derive(Debug)]
pub struct HandedOver(());

/// Proof that the target said it has everything.
#[derive(Debug)]
pub struct TargetReady(pub(super) ());

/// Proof that the source said it has given up the right to run.
#[derive(Debug)]
pub struct Granted(pub(super) ());

impl RunRight {
    /// Claims the right for a guest that runs here already, or that was just created.
    ///
    /// Called once per guest, by whoever started it; a second claim is the caller's lie.
    pub fn claim() -> Self {
        Self(())
    }

    /// The guest has been stopped.
    pub fn stop(self) -> StoppedRight {
        StoppedRight(())
    }
}

impl StoppedRight {
    /// The guest goes on here: the migration failed or was cancelled.
    pub fn resume(self) -> RunRight {
        RunRight(())
    }

    /// Gives the guest away, to a target that is ready for it.
    pub fn hand_over(self, _ready: TargetReady) -> HandedOver {
        HandedOver(())
    }
}

impl Granted {
    /// Takes over the right that the source gave up.
    pub fn accept(self) -> RunRight {
        RunRight(())
    }
}
