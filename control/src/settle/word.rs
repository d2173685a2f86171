//! One side's evidence, in one word that a person can carry from one host to the other.
//!
//! `STATE`, or `STATE:PHASE:SESSION`: what QEMU shows (`running`, `stopped`, `gone`), what its
//! journal says, and of which migration.

use std::fmt;
use std::str::FromStr;

use pagelift_agent_protocol::JournalPhase;
use pagelift_engine::guest::Promise;
use pagelift_engine::migration::settle::{Evidence, Observed};
use pagelift_engine::wire::SessionId;

/// What a side shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What QEMU shows.
    pub observed: Observed,
    /// What its journal says, and of which migration.
    pub record: Option<(SessionId, JournalPhase)>,
}

impl Word {
    /// What counts for a side that need not be asked.
    pub(super) const NOT_ASKED: Evidence = Evidence {
        observed: Observed::Stopped,
        record: None,
    };

    /// Whether its journal is that of a source; `None` without a record.
    pub fn is_source(&self) -> Option<bool> {
        self.record.map(|(_, phase)| phase.is_sources())
    }

    /// Whether what it shows tells nothing without the other side.
    pub(super) fn needs_other(&self) -> bool {
        let is_open = self.record.is_some_and(|(_, phase)| phase.is_open());
        self.observed != Observed::Running && is_open
    }

    /// As the engine has it.
    pub(super) fn evidence(&self) -> Evidence {
        Evidence {
            observed: self.observed,
            record: self
                .record
                .map(|(session, phase)| (session, promise(phase))),
        }
    }
}

fn promise(phase: JournalPhase) -> Promise {
    match phase {
        JournalPhase::Moving => Promise::Moving,
        JournalPhase::HandedOver => Promise::HandedOver,
        JournalPhase::Released => Promise::Released,
        JournalPhase::Kept => Promise::Kept,
        JournalPhase::Prepared => Promise::Prepared,
        JournalPhase::Granted => Promise::Granted,
        JournalPhase::Running => Promise::Running,
        JournalPhase::Abandoned => Promise::Abandoned,
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.observed {
            Observed::Running => "running",
            Observed::Stopped => "stopped",
            Observed::Gone => "gone",
        })?;
        match self.record {
            Some((session, phase)) => write!(f, ":{}:{session}", phase.name()),
            None => Ok(()),
        }
    }
}

impl FromStr for Word {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is not what `pagelift where` prints: STATE or STATE:PHASE:SESSION")
        };
        let mut parts = text.split(':');
        let observed = match parts.next() {
            Some("running") => Observed::Running,
            Some("stopped") => Observed::Stopped,
            Some("gone") => Observed::Gone,
            _ => return Err(wrong()),
        };
        let record = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            (Some(phase), Some(session), None) => {
                let phase = JournalPhase::from_name(phase).ok_or_else(wrong)?;
                let session = u128::from_str_radix(session, 16).map_err(|_| wrong())?;
                Some((SessionId(session), phase))
            }
            _ => return Err(wrong()),
        };
        Ok(Self { observed, record })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_was_written() {
        for text in [
            "gone",
            "running",
            "stopped:handed-over:0000000000000000000000000000002a",
        ] {
            let word: Word = text.parse().unwrap();
            assert_eq!(word.to_string(), text);
        }
        for wrong in [
            "",
            "here",
            "stopped:",
            "stopped:moving",
            "gone:moving:x",
            "gone:moving:1:2",
        ] {
            assert!(wrong.parse::<Word>().is_err(), "{wrong}");
        }
    }
}
