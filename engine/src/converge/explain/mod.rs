//! Explanations for users: why a migration is not done yet, why it was given up, and what would
//! have worked.

mod give_up;
mod remedy;
mod status;

pub use give_up::{GiveUp, GivenUp};
pub use remedy::Remedy;
pub use status::ConvergenceStatus;
