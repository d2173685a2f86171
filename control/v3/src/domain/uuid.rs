//! The identity of a guest or a host: 16 bytes, written in groups of hexadecimal digits.

use std::fmt;

/// A uuid. The bytes are in the order of the text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Reads 32 hexadecimal digits; hyphens and spaces between them are skipped, as libvirt does.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut digits = text.trim().chars().filter(|c| !matches!(c, '-' | ' '));
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let high = digits.next()?.to_digit(16)?;
            let low = digits.next()?.to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        digits.next().is_none().then_some(Self(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
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

impl From<[u8; 16]> for Uuid {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_with_and_without_hyphens() {
        let text = "aaaaaaaa-0000-4000-8000-00000000000f";
        let uuid = Uuid::parse(text).unwrap();
        assert_eq!(uuid.to_string(), text);
        assert_eq!(Uuid::parse(&text.replace('-', "")), Some(uuid));
        for wrong in [
            "",
            "aa",
            &text[1..],
            &format!("{text}0"),
            "g".repeat(32).as_str(),
        ] {
            assert_eq!(Uuid::parse(wrong), None, "{wrong}");
        }
    }
}
