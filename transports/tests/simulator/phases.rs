//! The phases that a side goes through, and those that may follow each other.

use pagelift_engine::migration::Phase;

use super::truth::Truth;

/// The phase of one side when it was last looked at.
#[derive(Debug, Default)]
pub struct Phases(Option<Phase>);

impl Phases {
    /// The side is in `phase` now. Those between may have been passed unseen.
    pub fn saw(&mut self, truth: &Truth, side: &str, phase: Phase) {
        if let Some(before) = self.0.replace(phase)
            && !may_follow(before, phase)
        {
            truth.broken(format!("{side}: {phase:?} after {before:?}"));
        }
    }
}

/// What the documentation of [`Phase`] says.
fn may_follow(before: Phase, phase: Phase) -> bool {
    match (before, phase) {
        (Phase::Precopy { round: before }, Phase::Precopy { round }) => before <= round,
        (Phase::Completed | Phase::Failed, phase) => before == phase,
        _ => order(before) <= order(phase),
    }
}

fn order(phase: Phase) -> u8 {
    match phase {
        Phase::Handshake => 0,
        Phase::Preparing => 1,
        Phase::Precopy { .. } => 2,
        Phase::Stopping => 3,
        Phase::LastRound => 4,
        Phase::DeviceState => 5,
        Phase::Ready => 6,
        Phase::HandingOver => 7,
        _ => 8,
    }
}
