//! Tests that cannot run on this machine: they say why, return, and are counted.
//!
//! The line `SKIP: test: why` goes to stderr through `eprintln!`, so that libtest files it under
//! the test's name; `tests/run` reads it there (`--show-output`) and counts the test as skipped
//! instead of passed.

/// Why a test cannot run here: what is missing, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Skip(pub String);

/// What a test function returns when it is skipped.
pub trait Skipped {
    /// The value that counts as success.
    fn skipped() -> Self;
}

impl Skipped for () {
    fn skipped() -> Self {}
}

impl<E> Skipped for Result<(), E> {
    fn skipped() -> Self {
        Ok(())
    }
}

/// Prints the line that makes a test count as skipped. Use [`skip!`](crate::skip!) instead.
///
/// `place` is the type name of an item inside the test function, which ends in the item's own
/// name; closures on the way are not part of the test's name.
pub fn report(place: &str, why: &str) {
    let test = place.rsplit_once("::").map_or(place, |(test, _item)| test);
    let test = test.trim_end_matches("::{{closure}}");
    eprintln!("SKIP: {test}: {}", why.replace('\n', " "));
}

/// Ends the test here and counts it as skipped: `skip!("no {thing}; install {package}")`.
///
/// Works in functions that return `()` or `Result<(), E>`.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        fn here() {}
        $crate::skip::report(::core::any::type_name_of_val(&here), &::std::format!($($why)*));
        return $crate::skip::Skipped::skipped();
    }};
}

/// The value of a `Result<T, Skip>`, or the end of a test that is counted as skipped.
#[macro_export]
macro_rules! require {
    ($value:expr) => {
        match $value {
            Ok(value) => value,
            Err($crate::Skip(why)) => $crate::skip!("{why}"),
        }
    };
}

#[cfg(test)]
mod tests {
    use super::Skip;

    fn asks(for_what: Result<u32, Skip>) -> Result<(), u32> {
        Err(crate::require!(for_what))
    }

    #[test]
    fn a_missing_thing_ends_the_function_as_a_success() {
        assert_eq!(asks(Ok(7)), Err(7));
        // Not through `asks(Err(..))`, which would count this very test as skipped.
        fn passes() -> Result<(), u32> {
            super::Skipped::skipped()
        }
        assert_eq!(passes(), Ok(()));
    }
}
