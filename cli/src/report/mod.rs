//! Report of a migration that has ended: a few lines for people, or one JSON object.
//!
//! | module | part of the report |
//! |---|---|
//! | `summary` | the four to six lines that are printed by default |
//! | `details` | the lines that `--details` adds |
//! | [`json`] | the object that `--json` prints |
//! | [`forecast`] | the forecast of the downtime beside what the downtime was |
//! | [`stages`] | where the time went, and the bottleneck |
//! | [`deltas`] | what the delta cache saved |
//! | [`output`] | the options that choose between them, and the printing |

pub mod deltas;
mod details;
pub mod forecast;
pub mod json;
pub mod output;
pub mod stages;
pub(crate) mod summary;

use std::time::Duration;

use pagelift_control::throttle::{ThrottleBy, VcpuThrottled};
use pagelift_engine::codec::cache::CacheStats;
use pagelift_engine::migration::SourceStatus;
use pagelift_engine::wire::SessionId;

pub use output::Output;
pub(crate) use pagelift_control::job::json::ms;

/// What a source's program knows of a migration beyond the engine's report.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Names the migration.
    pub session: Option<SessionId>,
    /// CPU time this process used.
    pub source_cpu: Duration,
    /// From the call of the engine to its return.
    pub elapsed: Duration,
    /// The last status that was seen.
    pub status: Option<SourceStatus>,
    /// Between the request to cancel and the guest at full speed, if it was cancelled.
    pub freed_after: Option<Duration>,
    /// Work that the guest lost, as time at full speed; `None` if it cannot be known.
    pub guest_slowdown: Option<Duration>,
    /// How each vCPU was throttled, by index; empty if it cannot be known.
    pub vcpus: Vec<VcpuThrottled>,
    /// What throttles the guest when it must be; `None`: the guest itself.
    pub throttle_by: Option<ThrottleBy>,
    /// Counts of the delta cache, if there was one.
    pub delta_cache: Option<CacheStats>,
    /// Most memory that the migration may take in this process, in bytes, beside the guest's.
    pub memory_budget_bytes: u64,
    /// Most memory that it was seen to take, in bytes.
    pub memory_peak_bytes: u64,
}

impl Extra {
    /// Work that the guest lost, over all vCPUs; `None` if it cannot be known.
    pub(crate) fn lost_work(&self) -> Option<Duration> {
        let vcpus = self.vcpus.iter().map(|vcpu| vcpu.lost).sum();
        let vcpus = (!self.vcpus.is_empty()).then_some(vcpus);
        self.guest_slowdown.or(vcpus)
    }
}
