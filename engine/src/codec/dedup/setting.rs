//! The setting for deduplication against the target's base pages.

use std::fmt;
use std::str::FromStr;

/// When to send pages as references to what the target has (`--dedup`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DedupSetting {
    /// Where looking for them takes less time than it saves.
    #[default]
    Auto,
    /// Every page is looked for.
    On,
    /// No references; the target need not send fingerprints of its base pages.
    Off,
}

impl DedupSetting {
    const ALL: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];
}

/// Why a text is no [`DedupSetting`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no dedup setting; write auto, on or off")]
pub struct ParseDedupError(String);

impl FromStr for DedupSetting {
    type Err = ParseDedupError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|(name, _)| *name == text);
        known
            .map(|(_, setting)| setting)
            .ok_or_else(|| ParseDedupError(text.to_owned()))
    }
}

impl fmt::Display for DedupSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.into_iter().find(|(_, setting)| setting == self);
        f.write_str(known.map_or("auto", |(name, _)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_what_was_written() {
        for text in ["auto", "on", "off"] {
            let setting: DedupSetting = text.parse().unwrap();
            assert_eq!(setting.to_string(), text);
        }
        let error = "yes".parse::<DedupSetting>().unwrap_err();
        assert!(error.to_string().contains("write auto, on or off"));
    }
}
