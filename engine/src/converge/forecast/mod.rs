//! Forecasts, each a pure function of an observation: the downtime if the guest were stopped now,
//! and the rounds to come under a throttle.

pub(super) mod downtime;
pub(super) mod rounds;

pub use downtime::DowntimeForecast;
pub use rounds::RoundsForecast;
