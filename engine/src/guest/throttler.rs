//! Slowing a guest down.

use std::time::Duration;

use super::Result;
use crate::converge::ThrottleShare;

/// Keeps vCPUs from running for a share of their time.
///
/// A throttle holds until the next call. The engine lifts it with [`ThrottleShare::NONE`] before the
/// migration ends; one that must also end when this process dies or hangs (a lease) is the
/// implementation's to have.
pub trait Throttler {
    /// Keeps every vCPU from running for `share` of its time.
    ///
    /// # Errors
    /// When it cannot: the migration ends.
    fn throttle(&mut self, share: ThrottleShare) -> Result<()>;

    /// Keeps each vCPU from running for its own share, in the order of
    /// [`vcpu_times`](Self::vcpu_times). Called only on throttlers that have those. One that
    /// cannot tell its vCPUs apart slows all of them as much as the slowest.
    ///
    /// # Errors
    /// As for [`throttle`](Self::throttle).
    fn throttle_vcpus(&mut self, shares: &[ThrottleShare]) -> Result<()> {
        self.throttle(shares.iter().copied().max().unwrap_or_default())
    }

    /// Processor time that each vCPU has used so far, in the order of their index. Asked at every
    /// harvest, and ten times a second while the guest is throttled and the dirty log counts what
    /// each vCPU writes. `None`: it is not known; the guest is then taken to want all of its
    /// processors, and its vCPUs are throttled alike. vCPUs that can only be throttled together
    /// count as one, with the mean of their times.
    fn vcpu_times(&mut self) -> Option<Vec<Duration>> {
        None
    }
}
