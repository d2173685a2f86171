//! How strongly a guest is throttled, and what that takes of its work.

pub(super) mod response;
mod share;

pub use response::ThrottleResponse;
pub use share::ThrottleShare;
