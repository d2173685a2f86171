//! The journal of a hand-over: what this QEMU's side has promised.
//!
//! The agent keeps the last entry for as long as QEMU lives, whatever becomes of its clients.

use crate::MAX_PATH_BYTES;
use crate::bytes::{DecodeError, Reader};

/// The session of a record that is no migration's: what was promised before is void, by a person's
/// word or because the guest is seen to run here.
pub const NO_SESSION: u128 = 0;

/// How far a side of a migration is, as far as it binds that side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalPhase {
    /// 1, source: the guest is here, and nothing was promised.
    Moving,
    /// 2, source: the guest is the target's. There is no way back.
    HandedOver,
    /// 3, source: the target runs the guest.
    Released,
    /// 4, source: the guest stays here. It will not be handed over in this migration.
    Kept,
    /// 16, target: the whole guest is here. It runs only by the source's word, and is kept until
    /// that is known.
    Prepared,
    /// 17, target: the source has given its word.
    Granted,
    /// 18, target: the guest runs here.
    Running,
    /// 19, target: the guest is the source's, and will not run here.
    Abandoned,
}

impl JournalPhase {
    const ALL: [(Self, u8, &'static str); 8] = [
        (Self::Moving, 1, "moving"),
        (Self::HandedOver, 2, "handed-over"),
        (Self::Released, 3, "released"),
        (Self::Kept, 4, "kept"),
        (Self::Prepared, 16, "prepared"),
        (Self::Granted, 17, "granted"),
        (Self::Running, 18, "running"),
        (Self::Abandoned, 19, "abandoned"),
    ];

    fn entry(self) -> (u8, &'static str) {
        let find = |entry: &&(Self, u8, &'static str)| entry.0 == self;
        let (_, number, name) = Self::ALL.iter().find(find).expect("all are listed");
        (*number, name)
    }

    /// A stable name.
    pub fn name(self) -> &'static str {
        self.entry().1
    }

    /// The phase called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|entry| entry.2 == name);
        found.map(|entry| entry.0)
    }

    /// Whether it is one of a source.
    pub fn is_sources(self) -> bool {
        matches!(
            self,
            Self::Moving | Self::HandedOver | Self::Released | Self::Kept
        )
    }

    /// Whether `self` may be recorded after `before` in one migration: a promise is not taken back.
    pub fn may_follow(self, before: Self) -> bool {
        match before {
            Self::Moving => self.is_sources() && self != Self::Released,
            Self::HandedOver => matches!(self, Self::HandedOver | Self::Released),
            Self::Released => self == Self::Released,
            Self::Kept => self == Self::Kept,
            Self::Prepared => !self.is_sources(),
            Self::Granted => matches!(self, Self::Granted | Self::Running),
            Self::Running => self == Self::Running,
            Self::Abandoned => self == Self::Abandoned,
        }
    }

    /// Whether the guest may be the other side's: a promise binds this side, or waits for the other
    /// side's word.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Prepared | Self::HandedOver | Self::Released)
    }

    /// Whether `self` may be recorded over `before` of another migration: none begins with a guest
    /// whose last one is [open](Self::is_open). That is settled first.
    pub fn may_displace(self, before: Self) -> bool {
        !(matches!(self, Self::Moving | Self::Prepared) && before.is_open())
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = reader.u8()?;
        let found = Self::ALL.iter().find(|entry| entry.1 == number);
        let unknown = DecodeError::Field("journal phase", "is not one of those known here");
        found.map(|entry| entry.0).ok_or(unknown)
    }
}

/// What is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRequest {
    session: u128,
    phase: JournalPhase,
    qmp_path: Vec<u8>,
}

impl RecordRequest {
    /// Records `phase` of the migration `session`. `qmp_path` is the monitor at which a prepared
    /// QEMU is held should the client be gone: absolute, or empty for none.
    ///
    /// # Errors
    /// When the path breaks the limits of the format.
    pub fn new(session: u128, phase: JournalPhase, qmp_path: Vec<u8>) -> Result<Self, DecodeError> {
        let is_absolute = qmp_path.first().is_none_or(|first| *first == b'/');
        if qmp_path.len() > MAX_PATH_BYTES || qmp_path.contains(&0) || !is_absolute {
            let rule = "must be absolute, of at most 107 bytes, none of them zero";
            return Err(DecodeError::Field("socket path", rule));
        }
        Ok(Self {
            session,
            phase,
            qmp_path,
        })
    }

    /// The migration.
    pub fn session(&self) -> u128 {
        self.session
    }

    /// How far it is.
    pub fn phase(&self) -> JournalPhase {
        self.phase
    }

    /// The monitor at which QEMU is held in doubt, or nothing.
    pub fn qmp_path(&self) -> &[u8] {
        &self.qmp_path
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.session.to_le_bytes().to_vec();
        bytes.push(self.phase.entry().0);
        let path_bytes = u16::try_from(self.qmp_path.len()).expect("paths are capped at 107 bytes");
        bytes.extend_from_slice(&path_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.qmp_path);
        bytes
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let session = session(reader)?;
        let phase = JournalPhase::decode(reader)?;
        let path_bytes = usize::from(reader.u16()?);
        Self::new(session, phase, reader.take(path_bytes)?.to_vec())
    }
}

/// What was recorded last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// The migration.
    pub session: u128,
    /// How far it is.
    pub phase: JournalPhase,
    /// Milliseconds since it was recorded.
    pub age_ms: u64,
}

impl JournalEntry {
    pub(crate) fn encode(entry: Option<&Self>) -> Vec<u8> {
        let Some(entry) = entry else {
            return vec![0];
        };
        let mut bytes = vec![1];
        bytes.extend_from_slice(&entry.session.to_le_bytes());
        bytes.push(entry.phase.entry().0);
        bytes.extend_from_slice(&entry.age_ms.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        match reader.u8()? {
            0 => return Ok(None),
            1 => {}
            _ => return Err(DecodeError::Field("journal entry", "must be 0 or 1")),
        }
        Ok(Some(Self {
            session: session(reader)?,
            phase: JournalPhase::decode(reader)?,
            age_ms: reader.u64()?,
        }))
    }
}

fn session(reader: &mut Reader<'_>) -> Result<u128, DecodeError> {
    let low = u128::from(reader.u64()?);
    Ok(low | u128::from(reader.u64()?) << 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_not_taken_back() {
        use JournalPhase::{Abandoned, Granted, HandedOver, Kept, Moving, Prepared, Running};
        for (before, after) in [
            (HandedOver, Kept),
            (HandedOver, Moving),
            (Kept, HandedOver),
            (Granted, Abandoned),
            (Running, Prepared),
            (Abandoned, Granted),
            (Moving, Prepared),
        ] {
            assert!(!after.may_follow(before), "{before:?} {after:?}");
        }
        for (before, after) in [
            (Moving, HandedOver),
            (Moving, Kept),
            (Prepared, Granted),
            (Prepared, Abandoned),
            (Granted, Running),
        ] {
            assert!(after.may_follow(before), "{before:?} {after:?}");
        }
        for (phase, _, name) in JournalPhase::ALL {
            assert!(phase.may_follow(phase), "a record may be repeated");
            assert_eq!(JournalPhase::from_name(name), Some(phase));
        }
    }

    #[test]
    fn no_migration_begins_before_the_last_one_is_settled() {
        use JournalPhase::{
            Abandoned, Granted, HandedOver, Kept, Moving, Prepared, Released, Running,
        };
        for begins in [Moving, Prepared] {
            for open in [Prepared, HandedOver, Released] {
                assert!(open.is_open());
                assert!(!begins.may_displace(open), "{begins:?} {open:?}");
            }
            for settled in [Moving, Kept, Granted, Running, Abandoned] {
                assert!(!settled.is_open());
                assert!(begins.may_displace(settled), "{begins:?} {settled:?}");
            }
        }
        // So a promise is made void.
        for open in [Prepared, HandedOver, Released] {
            assert!(Kept.may_displace(open), "{open:?}");
        }
    }
}
