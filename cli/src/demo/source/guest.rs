//! The demo's guest as the source's engine sees it.

use std::time::{Duration, Instant};

use pagelift_engine::converge::{GuestCosts, Share};
use pagelift_engine::migration::RunRight;
use pagelift_engine::pipeline::{GuestError, Parts, SourceGuest, StateSender};

use crate::demo::DeviceState;
use crate::demo::guest::Guest;
use crate::demo::pattern::Script;
use crate::demo::rehearse::Rehearsed;

/// The guest as the engine sees it.
pub(super) struct SourceHalf {
    pub(super) guest: Guest,
    pub(super) script: Script,
    pub(super) dirty_bytes_per_s: u64,
    pub(super) rehearsed: Rehearsed,
    pub(super) throttled: Share,
    pub(super) state: Option<StateSender>,
    /// Writes of each vCPU when it was stopped for the hand-over.
    pub(super) stopped_with: Option<Vec<u64>>,
}

impl SourceGuest for SourceHalf {
    fn attach(&mut self, parts: Parts) {
        self.state = Some(parts.state);
    }

    fn throttle(&mut self, share: Share) -> Result<(), GuestError> {
        self.guest.throttle(share);
        self.throttled = share;
        Ok(())
    }

    fn costs(&mut self) -> GuestCosts {
        self.rehearsed.costs(self.throttled)
    }

    fn stop(&mut self) -> Result<Duration, GuestError> {
        let asked = Instant::now();
        self.guest.stop();
        self.stopped_with = Some(self.guest.counts());
        Ok(asked.elapsed())
    }

    fn save_state(&mut self) -> Result<(), GuestError> {
        let state = DeviceState {
            script: self.script,
            dirty_bytes_per_s: self.dirty_bytes_per_s,
            counts: self.guest.counts(),
        };
        let bytes = serde_json::to_vec(&state).map_err(|error| GuestError(error.to_string()))?;
        let sender = self
            .state
            .as_ref()
            .ok_or_else(|| GuestError("it is not attached".into()))?;
        sender
            .send(&bytes, true)
            .map_err(|error| GuestError(format!("sending state: {error}")))
    }

    fn give_up(&mut self) -> Result<(), GuestError> {
        Ok(())
    }

    fn released(&mut self) {
        self.guest.throttle(Share::NONE);
    }

    fn resume(&mut self, _right: &RunRight) -> Result<(), GuestError> {
        self.stopped_with = None;
        self.guest.throttle(Share::NONE);
        self.guest.run();
        Ok(())
    }
}
