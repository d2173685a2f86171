//! The end of a migration on the source: digests, device state, and the guest's ownership.
//!
//! Invariant: from [`Source::relinquished`] on this side does not say that the guest may run here;
//! only the target's word that it runs there, or that it has it, settles where it is.

use super::Source;
use crate::migration::error::{GuestLocation, MigrationError};
use crate::migration::ownership::{StoppedOwnership, TargetReady};
use crate::transport::BindingProof;
use crate::units::{ByteCount, Instant};
use crate::wire::{Message, Reattach};

impl Source {
    /// The digest of this side's memory, after the guest stopped.
    ///
    /// # Errors
    /// When it differs from the target's.
    pub fn digested(&mut self, now: Instant, digest: u128) -> Result<(), MigrationError> {
        match self.state.switchover_mut() {
            Some(switchover) => switchover.digested(now, digest),
            None => Ok(()),
        }
    }

    /// The device state has been sent, or is on its way without further help.
    pub fn state_sent(&mut self) {
        if let Some(switchover) = self.state.switchover_mut() {
            switchover.state_sent();
        }
    }

    /// `count` bytes of device state went to the target.
    pub fn count_state_bytes(&mut self, count: ByteCount) {
        self.totals.state_bytes += count;
    }

    /// The guest was made unable to run here. Hands it over, and tells the target.
    ///
    /// The migration may have ended while that was done. The target was not told then, and the
    /// guest goes on here; unless the target, which was prepared, may have ended without knowing
    /// whose the guest is. A person may have let it run there, and must be asked.
    ///
    /// # Errors
    /// When the guest goes on here.
    pub fn relinquished(
        &mut self,
        now: Instant,
        stopped: StoppedOwnership,
        ready: TargetReady,
    ) -> Result<(), StoppedOwnership> {
        self.state.relinquished(now, stopped, ready)?;
        if !self.is_over() {
            self.peer.send(now, Message::HandOver);
        }
        Ok(())
    }

    /// Whether the migration ended while the guest was made unable to run here, and the guest is this
    /// side's: see [`relinquished`](Self::relinquished).
    pub fn keeps_guest(&self, now: Instant) -> bool {
        self.state.keeps_guest(now)
    }

    /// The guest was made unable to run here, and the journal says that it is the target's: there is
    /// no way back. Tells the target. If the connection was lost meanwhile, the target is asked over
    /// a new one.
    pub fn promised(&mut self, now: Instant, stopped: StoppedOwnership, ready: TargetReady) {
        if let Some(commit) = self.state.commit_mut() {
            commit.promised(stopped, ready);
        }
        if !self.is_over() {
            self.peer.send(now, Message::HandOver);
        }
    }

    /// The guest was made unable to run here, and whether the journal says that it is the target's
    /// is not known: the migration ends, and neither side runs the guest. The target is not told
    /// anything: its own journal keeps it waiting until the doubt is settled.
    pub fn may_be_promised(&mut self, stopped: StoppedOwnership, ready: TargetReady) {
        if let Some(commit) = self.state.commit_mut() {
            commit.may_be_promised(stopped, ready);
        }
    }

    /// A lost control connection was replaced after the hand-over: asks the target where it
    /// stands. `proof` says that the new one belongs to this migration, where the transport
    /// authenticates.
    pub fn reattached(&mut self, now: Instant, proof: Option<BindingProof>) {
        if let Some(commit) = self.state.commit_mut() {
            commit.reconnected();
        }
        self.peer.reconnected(now);
        let session = self.session;
        self.peer
            .send(now, Message::Reattach(Reattach { session, proof }));
    }

    /// Ends the migration. The first reason is kept.
    ///
    /// After the hand-over the machine stays where it was: [`reattached`](Self::reattached) may
    /// still bring it to its end.
    pub fn fail(&mut self, error: MigrationError) {
        self.state.fail(error);
    }

    /// Whether the source has relinquished the guest, or may have.
    pub fn has_handed_over(&self) -> bool {
        self.state.has_handed_over()
    }

    /// Where the guest is when the migration fails now, as far as the protocol knows.
    pub fn guest_location(&self) -> GuestLocation {
        self.state.guest_location()
    }
}
