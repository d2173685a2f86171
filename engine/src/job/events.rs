//! Events of a job, derived from the status of one side.

use crate::converge::ThrottleShare;
use crate::migration::{Phase, SourceStatus, TargetStatus};

/// Something that happened in a migration.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The migration entered a phase. Each round of precopy is one.
    Phase(Phase),
    /// The guest is kept from running for another share of its time.
    Throttled(ThrottleShare),
    /// On the target: the source is lost during the hand-over, and waited for.
    SourceLost,
    /// On the target: the source that was lost is back.
    SourceBack,
    /// The migration is over: [`Job::wait`](super::Job::wait) says how. The last event.
    Ended,
}

/// The status of one side, from which events are derived.
pub trait Status: Clone + Send + 'static {
    /// Adds what has happened since `before` to `events`.
    fn events(&self, before: Option<&Self>, events: &mut Vec<Event>);
}

impl Status for SourceStatus {
    fn events(&self, before: Option<&Self>, events: &mut Vec<Event>) {
        if before.is_none_or(|before| before.phase != self.phase) {
            events.push(Event::Phase(self.phase));
        }
        if self.throttle != before.map_or(ThrottleShare::NONE, |before| before.throttle) {
            events.push(Event::Throttled(self.throttle));
        }
    }
}

impl Status for TargetStatus {
    fn events(&self, before: Option<&Self>, events: &mut Vec<Event>) {
        if before.is_none_or(|before| before.phase != self.phase) {
            events.push(Event::Phase(self.phase));
        }
        let was_lost = before.is_some_and(|before| before.source_lost);
        match (was_lost, self.source_lost) {
            (false, true) => events.push(Event::SourceLost),
            (true, false) => events.push(Event::SourceBack),
            _ => {}
        }
    }
}
