//! What persons have done to both QEMUs, and what these do by it: see `person`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Truth;
use crate::simulator::memory::Side;

impl Truth {
    /// An actor has got somewhere.
    pub fn reach(&self, what: &'static str) {
        self.lock().reached.insert(what);
    }

    pub fn take_reached(&self) -> BTreeSet<&'static str> {
        std::mem::take(&mut self.lock().reached)
    }

    /// The guest does nothing for that time, on whichever side.
    pub fn stop_by_hand(&self, time: Duration) {
        let until = self.now().after(time);
        self.reach("stopped by hand");
        self.lock().stopped_until = Some(until);
    }

    pub fn is_stopped_by_hand(&self) -> bool {
        let now = self.now();
        self.lock().stopped_until.is_some_and(|until| now < until)
    }

    /// The source's guest runs on, unless its QEMU has committed, or has no migration.
    pub fn cancel_by_hand(&self) {
        if self.source_runs() || self.gave_up() || self.lock().stopped_at.is_none() {
            return;
        }
        self.reach("its stop was ended by hand");
        self.lock().cancelled_by_hand = true;
        self.source_resumed();
    }

    pub fn is_cancelled_by_hand(&self) -> bool {
        self.lock().cancelled_by_hand
    }

    /// The target's QEMU reads the guest.
    pub fn target_loads(&self) {
        self.lock().target_loads = true;
    }

    pub fn has_target_loaded(&self) -> bool {
        let state = self.lock();
        state.target_loads && !state.target_ended
    }

    /// The target's QEMU is to start the guest once it is loaded.
    pub fn starts_when_loaded(&self) {
        let mut state = self.lock();
        state.target_starts |= !state.target_loads;
    }

    pub fn starts_by_itself(&self) -> bool {
        self.lock().target_starts
    }

    pub fn target_ends(&self) {
        self.note(|| "the target's QEMU ends".into());
        self.lock().target_ended = true;
    }

    pub fn is_target_ended(&self) -> bool {
        self.lock().target_ended
    }

    /// The target's program is gone: what it was not promised is ended by the agent.
    pub fn target_is_killed(&self) {
        let promise = self.promised(Side::Target);
        if self.has_agents() && promise.is_none() && self.has_target_loaded() {
            self.reach("ended before it promised anything");
            self.target_ends();
        }
    }

    pub fn mark_settled(&self) {
        self.lock().settled = true;
    }

    pub fn was_settled(&self) -> bool {
        self.lock().settled
    }
}
