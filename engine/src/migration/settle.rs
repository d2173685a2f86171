//! Whose the guest is, after a program of either side was lost: decided by what both hypervisors
//! show now and what both journals say.
//!
//! The source's journal decides. A source that has not recorded [`Promise::HandedOver`] never told
//! the target to run the guest; one that has never runs it again. A guest that is seen to run is
//! where it runs, if the two sides are of one migration: else the other one may be all that is left
//! of another guest.

use crate::guest::Promise;
use crate::wire::SessionId;

/// What the hypervisor of a side shows now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Observed {
    /// It runs the guest.
    Running,
    /// It is there and does not run the guest.
    Stopped,
    /// It has ended.
    Gone,
}

/// All that is known of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Evidence {
    /// What the hypervisor shows.
    pub observed: Observed,
    /// What was recorded last, and of which migration.
    pub record: Option<(SessionId, Promise)>,
}

/// Whose the guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The source's. A target that has it must be ended.
    Source,
    /// The target's. The source must not run it.
    Target,
}

/// Why nobody can say whose the guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unsettled {
    /// It runs twice.
    #[error(
        "the guest runs on both sides: stop both, and end the one whose changes are to be lost"
    )]
    RunsTwice,
    /// The source's hypervisor has ended, and its journal with it.
    #[error(
        "the source's hypervisor has ended and the target was prepared: whether the guest ran on \
         there is known to nobody. Only fencing can tell: make sure by other means (its log, the \
         disks) that it did not"
    )]
    SourceIsGone,
    /// The target's hypervisor has ended after the guest was handed over.
    #[error(
        "the guest was handed over, and the target's hypervisor has ended: whether it ran there is \
         known to nobody. Only fencing can tell: make sure by other means (its log, the disks) that \
         it did not"
    )]
    TargetIsGone,
    /// The target's hypervisor is there, and has no record of a guest that was handed over.
    #[error(
        "the guest was handed over, and the other hypervisor has no record of it: it is not the \
         target, or it keeps no journal. In that case end the source's hypervisor, and let the guest go \
         on there by hand"
    )]
    TargetHasNoRecord,
    /// Neither hypervisor is there.
    #[error(
        "neither hypervisor is there any more: the guest runs nowhere, and is to be started anew from \
         its disks"
    )]
    BothAreGone,
    /// The source's hypervisor has ended, and the target has none of the guest.
    #[error(
        "the source's hypervisor has ended, and the target has not taken the guest: it runs nowhere, and \
         is to be started anew from its disks"
    )]
    NeverArrived,
    /// The journals do not speak of the same migration.
    #[error(
        "the two do not speak of the same migration: these are not its two sides, and neither was touched"
    )]
    Strangers,
}

impl Unsettled {
    /// Whose the guest is once a person has made sure that the other side does not run it and never
    /// will; `None` where nobody's word would end the doubt.
    pub fn once_fenced(self) -> Option<Owner> {
        match self {
            Self::SourceIsGone => Some(Owner::Target),
            Self::TargetIsGone => Some(Owner::Source),
            _ => None,
        }
    }
}

/// Whose the guest is, by what is known of both sides.
///
/// # Errors
/// When it cannot be known.
pub fn settle(source: &Evidence, target: &Evidence) -> Result<Owner, Unsettled> {
    use Observed::{Gone, Running, Stopped};
    use Promise::{Abandoned, Granted, HandedOver, Prepared, Released};
    // A source records nothing before the target has accepted, which may abandon the guest by then.
    let may_be_its = |record: Option<(SessionId, Promise)>| {
        record.is_some_and(|(_, promise)| promise != Abandoned)
    };
    if let (Some((left, _)), Some((right, _))) = (source.record, target.record)
        && left != right
    {
        return Err(Unsettled::Strangers);
    }
    match (source.observed, target.observed) {
        (Running, Running) => return Err(Unsettled::RunsTwice),
        (Gone, Gone) => return Err(Unsettled::BothAreGone),
        // What runs without a record may be any guest. A QEMU that has ended took its record along.
        (Running, Stopped) if source.record.is_none() && may_be_its(target.record) => {
            return Err(Unsettled::Strangers);
        }
        (Stopped, Running) if target.record.is_none() && source.record.is_some() => {
            return Err(Unsettled::Strangers);
        }
        (Running, _) => return Ok(Owner::Source),
        (_, Running) => return Ok(Owner::Target),
        (Stopped | Gone, Stopped | Gone) => {}
    }
    let handed_over = |promise| matches!(promise, HandedOver | Released);
    match (source.record, target.record) {
        (_, Some((_, Granted | Promise::Running))) => Ok(Owner::Target),
        (_, Some((_, Prepared))) if source.observed == Gone => Err(Unsettled::SourceIsGone),
        (Some((_, promise)), Some((_, Prepared))) => Ok(match handed_over(promise) {
            true => Owner::Target,
            false => Owner::Source,
        }),
        (None, Some((_, Prepared))) => Err(Unsettled::Strangers),
        // It has bound itself not to run what it was given.
        (Some(_), Some((_, Abandoned))) => Ok(Owner::Source),
        (Some((_, promise)), _) if handed_over(promise) => Err(match target.observed {
            Gone => Unsettled::TargetIsGone,
            _ => Unsettled::TargetHasNoRecord,
        }),
        _ if source.observed == Gone => Err(Unsettled::NeverArrived),
        _ => Ok(Owner::Source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Observed::{Gone, Running, Stopped};
    use Promise::{Abandoned, Granted, HandedOver, Kept, Moving, Prepared, Released};

    const SESSION: SessionId = SessionId(7);

    fn side(observed: Observed, promise: Option<Promise>) -> Evidence {
        Evidence {
            observed,
            record: promise.map(|promise| (SESSION, promise)),
        }
    }

    #[test]
    fn the_sources_journal_decides() {
        for (source, target, owner) in [
            (Some(Moving), Some(Prepared), Ok(Owner::Source)),
            (Some(Kept), Some(Prepared), Ok(Owner::Source)),
            (Some(HandedOver), Some(Prepared), Ok(Owner::Target)),
            (Some(Released), Some(Prepared), Ok(Owner::Target)),
            (Some(HandedOver), Some(Granted), Ok(Owner::Target)),
            (Some(Moving), None, Ok(Owner::Source)),
            (Some(Moving), Some(Abandoned), Ok(Owner::Source)),
            (None, Some(Prepared), Err(Unsettled::Strangers)),
            (Some(HandedOver), Some(Abandoned), Ok(Owner::Source)),
            (Some(HandedOver), None, Err(Unsettled::TargetHasNoRecord)),
        ] {
            let found = settle(&side(Stopped, source), &side(Stopped, target));
            assert_eq!(found, owner, "{source:?} {target:?}");
        }
    }

    #[test]
    fn a_guest_that_runs_is_where_it_runs() {
        let prepared = side(Stopped, Some(Prepared));
        let runs = side(Running, Some(HandedOver));
        assert_eq!(settle(&runs, &prepared), Ok(Owner::Source));
        let there = side(Running, Some(Promise::Running));
        let given = side(Stopped, Some(Moving));
        assert_eq!(settle(&given, &there), Ok(Owner::Target));
        assert_eq!(settle(&runs, &there), Err(Unsettled::RunsTwice));
        let silent = side(Running, None);
        assert_eq!(settle(&runs, &silent), Err(Unsettled::RunsTwice));
    }

    /// A guest that runs says nothing of another migration's other half, which a wrong answer ends.
    #[test]
    fn a_guest_that_runs_settles_no_stranger() {
        let of = |session: u128, observed, promise| Evidence {
            observed,
            record: Some((SessionId(session), promise)),
        };
        let silent = side(Running, None);
        for (source, target) in [
            (of(8, Running, Moving), of(7, Stopped, Prepared)),
            (of(8, Running, Kept), of(7, Stopped, Prepared)),
            (of(8, Running, HandedOver), of(7, Stopped, Granted)),
            (of(8, Running, Moving), of(7, Running, Promise::Running)),
            // It was let go on by a person's word, which no session answers for.
            (of(0, Running, Kept), of(7, Stopped, Prepared)),
            (silent, of(7, Stopped, Prepared)),
            (silent, of(7, Stopped, Granted)),
            (of(7, Stopped, HandedOver), of(8, Running, Prepared)),
            (of(7, Stopped, Moving), of(8, Running, Granted)),
            (of(7, Stopped, HandedOver), silent),
        ] {
            let found = settle(&source, &target);
            assert_eq!(found, Err(Unsettled::Strangers), "{source:?} {target:?}");
        }
        let left = of(7, Stopped, Abandoned);
        assert_eq!(settle(&silent, &left), Ok(Owner::Source));
        // Who is not there, or need not be asked, is nobody's stranger.
        let gone = side(Gone, None);
        let not_asked = side(Stopped, None);
        for other in [gone, not_asked] {
            assert_eq!(settle(&of(7, Running, Moving), &other), Ok(Owner::Source));
            assert_eq!(settle(&other, &of(7, Running, Prepared)), Ok(Owner::Target));
        }
    }

    #[test]
    fn what_a_hypervisor_took_with_it_is_not_guessed() {
        let gone = side(Gone, None);
        let prepared = side(Stopped, Some(Prepared));
        assert_eq!(settle(&gone, &prepared), Err(Unsettled::SourceIsGone));
        let granted = side(Stopped, Some(Granted));
        assert_eq!(settle(&gone, &granted), Ok(Owner::Target));
        let moving = side(Stopped, Some(Moving));
        assert_eq!(settle(&moving, &gone), Ok(Owner::Source));
        assert_eq!(settle(&gone, &gone), Err(Unsettled::BothAreGone));
        let given = side(Stopped, Some(HandedOver));
        assert_eq!(settle(&given, &gone), Err(Unsettled::TargetIsGone));
        for left in [side(Stopped, Some(Abandoned)), side(Stopped, None)] {
            assert_eq!(settle(&gone, &left), Err(Unsettled::NeverArrived));
        }
        let other = Evidence {
            record: Some((SessionId(8), Prepared)),
            ..prepared
        };
        assert_eq!(settle(&moving, &other), Err(Unsettled::Strangers));
    }
}
