//! Enumerations whose values are words in XML.

/// Declares an enumeration with the word of each value, and reading and writing by it.
macro_rules! words {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$vdoc:meta])* $value:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $value),+ }

        impl $name {
            /// The value of a word.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$value),)+ _ => None }
            }

            /// The word of the value.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$value => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

pub(crate) use words;

/// `yes` or `no`.
pub(crate) fn yes_no(word: &str) -> Option<bool> {
    switch(word, "yes", "no")
}

/// `on` or `off`.
pub(crate) fn on_off(word: &str) -> Option<bool> {
    switch(word, "on", "off")
}

fn switch(word: &str, on: &str, off: &str) -> Option<bool> {
    match word {
        w if w == on => Some(true),
        w if w == off => Some(false),
        _ => None,
    }
}

/// The word of a switch that is `yes` or `no`.
pub(crate) const fn word_of(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// The word of a switch that is `on` or `off`.
pub(crate) const fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
