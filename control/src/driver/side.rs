//! The two sides of a migration.

/// A side of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest leaves.
    Source,
    /// The guest arrives.
    Target,
}
