//! Ending doubt about whose a guest is: asking QEMUs and the journals of their agents, and letting
//! exactly one run it.
//!
//! [`Side::look`] asks one QEMU. [`decide`] says whose the guest is by what two sides show, one of
//! which may have been asked elsewhere ([`Word`]). [`Decision::carry_out`] does it, at QEMUs whose
//! journal speaks of that migration: any other is left alone.

mod act;
mod decision;
mod look;
mod word;

pub use decision::{Carried, Decision};
pub use look::{LookError, Side};
pub use word::Word;

use pagelift_engine::migration::settle::{Observed, Unsettled, settle};

/// What is to be done where there is no doubt.
const NOTHING_RECORDED: &str = "nothing is recorded here: no migration has begun in this QEMU since it was started, or it has no \
     agent. Nothing keeps it from running a guest that it has: 'cont' at its monitor does that, once you \
     know that the guest runs nowhere else";

/// Why it cannot be said whose the guest is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// The other side must be asked first.
    #[error("the other side must be asked")]
    AskOther,
    /// Neither side has a journal that speaks of a migration.
    #[error("{NOTHING_RECORDED}")]
    NothingRecorded,
    /// Both are sources, or both targets.
    #[error(
        "both are the {0} of a migration: name its two sides ('pagelift where' prints the migration of \
         each)"
    )]
    SameRole(&'static str),
    /// What is known does not tell.
    #[error(transparent)]
    Unsettled(#[from] Unsettled),
}

/// Whose the guest is by what `one` and the `other` side show.
///
/// # Errors
/// When that does not tell.
pub fn decide(one: &Word, other: Option<&Word>) -> Result<Decision, Undecided> {
    let role = one.is_source();
    let other_role = other.and_then(Word::is_source);
    let is_source = match (role, other_role) {
        (Some(true), Some(true)) => return Err(Undecided::SameRole("source")),
        (Some(false), Some(false)) => return Err(Undecided::SameRole("target")),
        (Some(is_source), _) => is_source,
        (None, Some(is_source)) => !is_source,
        (None, None) => return Err(nothing_recorded(one, other)),
    };
    let recorded = one.record.or_else(|| other?.record);
    let (session, _) = recorded.ok_or(Undecided::NothingRecorded)?;
    if other.is_none() && one.needs_other() {
        return Err(Undecided::AskOther);
    }
    let (one, other) = (
        one.evidence(),
        other.map_or(Word::NOT_ASKED, Word::evidence),
    );
    let owner = match is_source {
        true => settle(&one, &other)?,
        false => settle(&other, &one)?,
    };
    Ok(Decision {
        session,
        owner,
        one_is_source: is_source,
    })
}

/// Why nothing is known where neither side has a record.
fn nothing_recorded(one: &Word, other: Option<&Word>) -> Undecided {
    match (one.observed, other.map(|other| other.observed)) {
        (Observed::Gone, None) => Undecided::AskOther,
        (Observed::Gone, Some(Observed::Gone)) => Unsettled::BothAreGone.into(),
        _ => Undecided::NothingRecorded,
    }
}

#[cfg(test)]
mod tests {
    use pagelift_engine::migration::settle::Owner;

    use super::*;

    fn word(text: &str) -> Word {
        text.parse().unwrap()
    }

    /// Whose the guest is, and whether `one` is the source.
    fn decided(one: &Word, other: Option<&Word>) -> Result<(Owner, bool), Undecided> {
        let decision = decide(one, other)?;
        assert_eq!(decision.session.0, 7);
        Ok((decision.owner, decision.one_is_source))
    }

    #[test]
    fn the_other_side_is_asked_only_where_it_matters() {
        let alone = |text: &str| decided(&word(text), None);
        assert_eq!(alone("stopped:prepared:7"), Err(Undecided::AskOther));
        assert_eq!(alone("stopped:handed-over:7"), Err(Undecided::AskOther));
        assert_eq!(alone("stopped:moving:7"), Ok((Owner::Source, true)));
        assert_eq!(alone("stopped:granted:7"), Ok((Owner::Target, false)));
        assert_eq!(alone("running:prepared:7"), Ok((Owner::Target, false)));
        assert_eq!(alone("running:handed-over:7"), Ok((Owner::Source, true)));
        assert_eq!(alone("stopped"), Err(Undecided::NothingRecorded));
        assert_eq!(alone("gone"), Err(Undecided::AskOther));
    }

    #[test]
    fn either_side_may_be_named_first() {
        let (source, target) = (word("stopped:handed-over:7"), word("stopped:prepared:7"));
        assert_eq!(decided(&source, Some(&target)), Ok((Owner::Target, true)));
        assert_eq!(decided(&target, Some(&source)), Ok((Owner::Target, false)));
        let same = decided(&source, Some(&source));
        assert_eq!(same, Err(Undecided::SameRole("source")));
        let gone = decided(&source, Some(&word("gone")));
        assert_eq!(gone, Err(Undecided::Unsettled(Unsettled::TargetIsGone)));
        let strangers = decided(&source, Some(&word("stopped:prepared:8")));
        assert_eq!(strangers, Err(Undecided::Unsettled(Unsettled::Strangers)));
        for runs in ["running:moving:8", "running"] {
            let (runs, kept) = (word(runs), word("stopped:prepared:7"));
            let strangers = decided(&runs, Some(&kept));
            assert_eq!(strangers, Err(Undecided::Unsettled(Unsettled::Strangers)));
        }
    }
}
