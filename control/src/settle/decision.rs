//! What was decided, and carrying it out: at most one QEMU could run the guest at any moment.

use std::path::PathBuf;

use pagelift_engine::migration::settle::Owner;
use pagelift_engine::wire::SessionId;

use super::act::Party;
use super::look::{LookError, Side};

/// Whose the guest of a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The migration.
    pub session: SessionId,
    /// Whose it is.
    pub owner: Owner,
    /// Whether the side that was named first is the source.
    pub one_is_source: bool,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The guest runs, on its owner's side.
    pub runs: bool,
    /// Monitors of QEMUs that are there and have no record of the migration.
    pub left_alone: Vec<PathBuf>,
}

impl Decision {
    /// Has the owner run the guest, as far as the sides are here. The other one lets go of it first.
    ///
    /// # Errors
    /// When a QEMU does not do what it is told.
    pub fn carry_out(
        &self,
        one: &mut Side,
        other: Option<&mut Side>,
    ) -> Result<Carried, LookError> {
        let sides = [Some(&*one), other.as_deref()].into_iter().flatten();
        let strangers = sides.filter(|side| side.pid().is_some() && !side.is_of(self.session));
        let left_alone = strangers.map(|side| side.monitor().to_owned()).collect();
        let (one, other) = (
            one.party(self.session),
            other.and_then(|other| other.party(self.session)),
        );
        let (source, target) = match self.one_is_source {
            true => (one, other),
            false => (other, one),
        };
        let runs = match self.owner {
            Owner::Source => {
                target.map(Party::end).transpose()?;
                source.map(Party::keep).transpose()?.is_some()
            }
            Owner::Target => give(source, target)?,
        };
        Ok(Carried { runs, left_alone })
    }
}

/// The guest is the target's; whether it runs there.
fn give(mut source: Option<Party<'_>>, target: Option<Party<'_>>) -> Result<bool, LookError> {
    source.as_mut().map(Party::let_go).transpose()?;
    let Some(target) = target else {
        return Ok(false);
    };
    target.take_over()?;
    source.map(Party::release).transpose()?;
    Ok(true)
}
