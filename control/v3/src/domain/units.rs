//! Amounts of memory, in the unit that libvirt counts in.

use std::fmt;

use crate::xml::{Element, Malformed};

/// An amount of memory in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KiB(pub u64);

impl KiB {
    /// The amount in bytes. Amounts that are parsed fit.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(1024)
    }

    /// Reads an element with the attribute `unit`, by default KiB; parts of a KiB are rounded up.
    pub(crate) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let unit = element.read("unit", unit_bytes)?.unwrap_or(1024);
        let text = element.text();
        let bytes = text
            .trim()
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit));
        let amount = bytes
            .map(|b| Self(b.div_ceil(1024)))
            .ok_or_else(|| element.invalid(text))?;
        element.finish()?;
        Ok(amount)
    }
}

impl fmt::Display for KiB {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The bytes of a unit: letters alone and those with `iB` are powers of 1024, those with `B` of 1000.
fn unit_bytes(unit: &str) -> Option<u64> {
    let lower = unit.to_ascii_lowercase();
    if matches!(lower.as_str(), "b" | "byte" | "bytes") {
        return Some(1);
    }
    let power = 1 + "kmgtpe".find(lower.chars().next()?)?;
    let base = match &lower[1..] {
        "" | "ib" => 1024_u64,
        "b" => 1000,
        _ => return None,
    };
    base.checked_pow(u32::try_from(power).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_libvirt() {
        for (unit, bytes) in [
            ("b", 1),
            ("KB", 1000),
            ("KiB", 1024),
            ("k", 1024),
            ("M", 1 << 20),
            ("GB", 1_000_000_000),
        ] {
            assert_eq!(unit_bytes(unit), Some(bytes), "{unit}");
        }
        assert_eq!(unit_bytes("furlong"), None);
        assert_eq!(unit_bytes(""), None);
    }
}
