//! Jobs: the move of one guest, from its set-up to its report.
//!
//! | module | part of a job |
//! |---|---|
//! | [`prepare_outgoing`], [`prepare_incoming`] | a driver and an address, set up to move a guest |
//! | [`values`] | how users write the limits of a job: times, rates, shares |
//! | [`JobStatus`] | the last status of a job, for whoever asks |
//! | [`Bottleneck`] | the stage that took the most time |
//! | [`json`] | status and report as JSON objects |

mod bottleneck;
mod incoming;
pub mod json;
mod outgoing;
mod status;
pub mod values;

pub use bottleneck::Bottleneck;
pub use incoming::{IncomingError, IncomingJob, prepare_incoming};
pub use outgoing::{OutgoingJob, prepare_outgoing, prepare_outgoing_over};
pub use status::JobStatus;
