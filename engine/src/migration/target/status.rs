//! Where a target is, for display.

use super::Target;
use super::commit::Commit;
use super::memory::Memory;
use super::types::TargetStatus;
use crate::migration::phase::Phase;

impl Target {
    /// Where the migration is.
    pub fn status(&self) -> TargetStatus {
        TargetStatus {
            phase: self.phase(),
            round: self.barrier.round(),
            received: self.barrier.received(),
            source_lost: self.is_lost(),
            stages: self.stages,
        }
    }

    /// The phase alone.
    pub fn phase(&self) -> Phase {
        match self.commit {
            Commit::SourceOwns { .. } => match self.memory {
                Memory::Vacant | Memory::Marking(_) => Phase::Handshake,
                Memory::Clearing { .. } => Phase::Preparing,
                Memory::Receiving if !self.barrier.knows_last_round() => Phase::Precopy {
                    round: self.barrier.round(),
                },
                Memory::Receiving | Memory::Digesting { .. } => Phase::LastRound,
                Memory::Complete => Phase::DeviceState,
            },
            Commit::Prepared(_) => Phase::Ready,
            Commit::Granted { .. } => Phase::HandingOver,
            Commit::Running { .. } => Phase::Completed,
            Commit::Ended { .. } => Phase::Failed,
        }
    }
}
