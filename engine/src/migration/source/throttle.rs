//! The throttle of the guest: what was asked for, what was given, and what it came to.

use crate::converge::{LostWork, ThrottleResponse, ThrottleShare};

/// The throttle, as the machine knows it.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// Share of its time that the guest is kept from running.
    given: ThrottleShare,
    most_given: ThrottleShare,
    /// A new share that the guest has not been given yet.
    asked: Option<ThrottleShare>,
    /// What the throttle came to over the last round, if not to what was given.
    effect: Option<ThrottleShare>,
    response: ThrottleResponse,
}

impl Throttle {
    /// The policy wants this share.
    pub(super) fn ask(&mut self, share: ThrottleShare) {
        self.asked = Some(share);
    }

    /// A share that was asked for since the last call.
    pub(super) fn take_asked(&mut self) -> Option<ThrottleShare> {
        self.asked.take()
    }

    /// The guest is given this share.
    pub(super) fn give(&mut self, share: ThrottleShare) {
        self.given = share;
        self.most_given = self.most_given.max(share);
    }

    /// Over the last round it came to `share`, if not to what was given; a throttle takes as much
    /// of the guest's work as `response` says.
    pub(super) fn had(&mut self, share: Option<ThrottleShare>, response: ThrottleResponse) {
        self.effect = share;
        self.response = response;
    }

    /// The share that was given last.
    pub(super) fn given(&self) -> ThrottleShare {
        self.given
    }

    /// The largest share that was ever given.
    pub(super) fn most_given(&self) -> ThrottleShare {
        self.most_given
    }

    /// What it came to over the last round.
    pub(super) fn effect(&self) -> ThrottleShare {
        self.effect.unwrap_or(self.given)
    }

    /// What a throttle takes of the guest's work.
    pub(super) fn response(&self) -> ThrottleResponse {
        self.response
    }

    /// What the guest lost of its work over the last round.
    pub(super) fn lost_work(&self) -> LostWork {
        self.response.lost(self.effect())
    }
}
