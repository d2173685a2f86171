//! What a user reads about convergence: why a migration is not done yet, and what would help.

mod give_up;
mod remedy;
mod status;

pub use give_up::{GiveUp, GivenUp};
pub use remedy::Remedy;
pub use status::ConvergenceStatus;
