//! Arming: QEMU's migration, which others may use while RAM is sent, becomes ours.

use pagelift_engine::guest::GuestError;

use super::super::hand_over::lock;
use super::{DirectSource, Step, failed};

impl DirectSource {
    /// Ends the watch for others, and has the agent know how to undo what follows. Does nothing the
    /// second time.
    ///
    /// # Errors
    /// When others have done something for which the guest is to stay, a block job runs that no guest
    /// can be moved under, or QEMU or the agent does not answer.
    pub(super) fn arm(&mut self) -> Result<(), GuestError> {
        let (Step::Prepared(prepared), Some(hands)) = (&mut self.step, self.other_hands.take())
        else {
            return Ok(());
        };
        let seen = hands
            .end()
            .map_err(|error| failed("looking for others", error))?;
        if let Some(words) = seen {
            return Err(GuestError(words));
        }
        prepared
            .arm()
            .map_err(|error| failed("QEMU's migration", error))?;
        lock(&self.agent)
            .set_rollback(&self.qmp_path, &prepared.rollback_script())
            .map_err(|error| failed("preparing the stop", error))
    }
}
