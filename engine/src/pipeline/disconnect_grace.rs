//! Waits before the loss of a connection counts.
//!
//! A side that ends the migration says why on the control connection and then closes all of
//! them. The other side may see the end of a data connection first; its own reason, "the
//! connection was lost", would then hide the true one: a full file system, say. So the loss of a
//! data connection, and that a message could not be sent, count only after a pause in which
//! nothing else ended the migration.

use std::time::Duration;

use super::Step;
use crate::migration::{HEARTBEAT, MigrationError};
use crate::units::Instant;

/// The pause: far longer than a message takes whose sender has gone on to close its connections.
const PAUSE: Duration = HEARTBEAT;

/// The loss of a connection, if it is lost.
#[derive(Debug, Default)]
pub(super) struct DisconnectGrace(Option<(Instant, MigrationError)>);

impl DisconnectGrace {
    /// The connection is lost because of `error`.
    pub(super) fn lost(&mut self, now: Instant, error: MigrationError) -> Step {
        let until = now.after(PAUSE);
        self.0 = Some((until, error));
        Step::Wait(until)
    }

    /// What a channel must do instead of its work; `None` while it has its connection.
    pub(super) fn step(
        &mut self,
        now: Instant,
        is_over: bool,
    ) -> Option<Result<Step, MigrationError>> {
        let (until, error) = self.0.take()?;
        Some(if is_over {
            Ok(Step::Done)
        } else if now < until {
            self.0 = Some((until, error));
            Ok(Step::Wait(until))
        } else {
            Err(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_counts_after_a_pause_unless_something_else_came_first() {
        let start = Instant(1_000_000_000);
        let lost = || {
            let mut word = DisconnectGrace::default();
            assert!(word.step(start, false).is_none(), "all is well");
            assert_eq!(
                word.lost(start, MigrationError::Cancelled),
                Step::Wait(start.after(PAUSE))
            );
            word
        };
        let mut word = lost();
        assert!(matches!(word.step(start, false), Some(Ok(Step::Wait(_)))));
        assert!(matches!(word.step(start.after(PAUSE), false), Some(Err(_))));
        assert!(matches!(lost().step(start, true), Some(Ok(Step::Done))));
    }
}
