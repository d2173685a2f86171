//! Jobs: the move of one guest, from its set-up to its report.
//!
//! | module | part of a job |
//! |---|---|
//! | [`values`] | how users write the limits of a job: times, rates, shares |
//! | [`JobStatus`] | the last status of a job, for whoever asks |
//! | [`Bottleneck`] | the stage that took the most time |
//! | [`json`] | status and report as JSON objects |

mod bottleneck;
pub mod json;
mod status;
pub mod values;

pub use bottleneck::Bottleneck;
pub use status::JobStatus;
