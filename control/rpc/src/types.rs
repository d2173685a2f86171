//! Values that several calls have in common.

use std::fmt;
use std::str::FromStr;

use crate::declare::xdr_structs;
use crate::xdr::{Input, Malformed, Xdr};

/// The id of a guest that does not run.
pub const NO_ID: i32 = -1;

/// A universally unique identifier; its text is `aaaaaaaa-0000-4000-8000-000000000001`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if [4, 6, 8, 10].contains(&at) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is no UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a UUID has 32 hexadecimal digits")]
pub struct NotUuid;

impl FromStr for Uuid {
    type Err = NotUuid;

    /// The digits, with or without dashes.
    fn from_str(text: &str) -> Result<Self, NotUuid> {
        let mut uuid = [0; 16];
        let mut digits = text.chars().filter(|char| *char != '-');
        for byte in &mut uuid {
            for _ in 0..2 {
                let digit = digits.next().and_then(|char| char.to_digit(16));
                // A digit is less than 16.
                *byte = *byte << 4 | digit.ok_or(NotUuid)? as u8;
            }
        }
        digits.next().is_none().then_some(Self(uuid)).ok_or(NotUuid)
    }
}

impl Xdr for Uuid {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let mut uuid = [0; 16];
        for word in uuid.chunks_exact_mut(4) {
            word.copy_from_slice(&u32::take(input)?.to_be_bytes());
        }
        Ok(Self(uuid))
    }
}

xdr_structs! {
    /// A guest, as it is named on the wire.
    Domain {
        /// Its name.
        name: String,
        /// What it is known by.
        uuid: Uuid,
        /// Its number while it runs, else [`NO_ID`].
        id: i32,
    }

    /// A network, as it is named on the wire.
    Network {
        /// Its name.
        name: String,
        /// What it is known by.
        uuid: Uuid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_and_its_text() {
        let text = "aaaaaaaa-0000-4000-8000-00000000000f";
        let uuid: Uuid = text.parse().unwrap();
        assert_eq!(uuid.to_string(), text);
        assert_eq!(uuid.0[15], 15);
        assert_eq!(text.replace('-', "").parse(), Ok(uuid));
        for bad in ["", "aaaaaaaa", &format!("{text}0"), &text.replace('f', "g")] {
            assert_eq!(bad.parse::<Uuid>(), Err(NotUuid), "{bad}");
        }
    }
}
