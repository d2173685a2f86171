//! The strength of a throttle, and the work that it takes from the guest.

pub(super) mod response;
mod share;

pub use response::ThrottleResponse;
pub use share::ThrottleShare;
