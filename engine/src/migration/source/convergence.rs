//! The policy that decides when the guest is stopped, and when it is asked.

use std::time::Duration;

use crate::converge::{ConvergenceStatus, Policy};
use crate::units::Instant;

/// Shortest time between two statuses: they are for people to read.
const STATUS_PAUSE: Duration = Duration::from_millis(200);

/// The policy of a migration.
#[derive(Debug)]
pub(super) struct Convergence {
    pub(super) policy: Box<dyn Policy>,
    /// When it is asked next, or when the next harvest is due while nothing is left to send.
    pub(super) ask_at: Instant,
    status: Option<ConvergenceStatus>,
    status_due: Instant,
}

impl Convergence {
    /// Not asked yet.
    pub(super) fn new(policy: Box<dyn Policy>, now: Instant) -> Self {
        Self {
            policy,
            ask_at: now,
            status: None,
            status_due: now,
        }
    }

    /// Why it is not done yet, as of the end of the last round.
    pub(super) fn status(&self) -> Option<ConvergenceStatus> {
        self.status
    }

    /// Whether another status is due; the one that is then made counts from `now` on.
    pub(super) fn begin_status(&mut self, now: Instant) -> bool {
        let due = self.status.is_none() || now >= self.status_due;
        if due {
            self.status_due = now.after(STATUS_PAUSE);
        }
        due
    }

    /// The status as it is now.
    pub(super) fn set_status(&mut self, status: ConvergenceStatus) {
        self.status = Some(status);
    }
}
