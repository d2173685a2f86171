//! Convergence: when to stop the guest, how much to slow it down before, and when to give up.
//!
//! | module | what it holds |
//! |---|---|
//! | `policy` | the question ([`Observation`]), the answers ([`Decision`]) and the trait between them |
//! | `stop_when_fits`, `classic`, `predictive` | the policies |
//! | `limited` | any of them under [`Limits`] that may change, with a deadline |
//! | `estimate` | what a run measures: rate of the link, cost of a page, dirty curve, switchover costs |
//! | `forecast` | the downtime if the guest were stopped now, and the rounds to come |
//! | `throttle`, `vcpu` | what a throttle takes of the guest's work, and which vCPU it falls on |
//! | `explain` | the same in words: why it is not done, why it was given up, what would help |
//! | `trace` | a recorded run, and policies run over it again |
//!
//! Everything here is pure: it reads no clock and does no I/O.

mod classic;
mod estimate;
mod explain;
mod forecast;
mod limited;
mod limits;
mod policy;
mod predictive;
mod stop_when_fits;
mod throttle;
mod trace;
mod vcpu;

pub use classic::{Classic, ClassicConfig};
pub use estimate::{
    COVERAGE, Calibration, DirtyCurve, Estimates, FixedCosts, Interval, LinkRate, PageCosts,
    PageTime, RoundSent, SchedulingDelay, SwitchoverCosts,
};
pub use explain::{ConvergenceStatus, GiveUp, GivenUp, Remedy};
pub use forecast::{DowntimeForecast, RoundsForecast};
pub use limited::Limited;
pub use limits::{AtDeadline, Downtime, Limits, PolicyKind};
pub use policy::{Decision, Observation, Policy};
pub use predictive::{Predictive, PredictiveConfig};
pub use stop_when_fits::{StopWhenFits, StopWhenFitsConfig};
pub use throttle::{LostWork, ThrottleResponse, ThrottleShare};
pub use trace::{Ended, Model, Record, Recorded, Run, Trace, TraceError, replay};
pub use vcpu::{VcpuSample, VcpuThrottle};
