//! Whether references are sent, as the operator says it.

use std::fmt;
use std::str::FromStr;

/// What `--references` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReferenceSetting {
    /// Where looking for them takes less time than it saves.
    #[default]
    Auto,
    /// Every page is looked for.
    On,
    /// No references; the target need not tell what it kept.
    Off,
}

impl ReferenceSetting {
    const ALL: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];
}

/// Why a text is no [`ReferenceSetting`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not say whether to send references; write auto, on or off")]
pub struct ParseReferenceError(String);

impl FromStr for ReferenceSetting {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|(name, _)| *name == text);
        known
            .map(|(_, setting)| setting)
            .ok_or_else(|| ParseReferenceError(text.to_owned()))
    }
}

impl fmt::Display for ReferenceSetting {
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
            let setting: ReferenceSetting = text.parse().unwrap();
            assert_eq!(setting.to_string(), text);
        }
        let error = "yes".parse::<ReferenceSetting>().unwrap_err();
        assert!(error.to_string().contains("write auto, on or off"));
    }
}
