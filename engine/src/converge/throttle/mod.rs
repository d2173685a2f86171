//! The strength of a throttle, and the work that it takes from the guest.

mod lost_work;
pub(super) mod response;
mod share;

pub use lost_work::LostWork;
pub use response::ThrottleResponse;
pub use share::ThrottleShare;
