//! What a finished migration reports: counts, times and where they went.

use std::time::Duration;

use super::counters::{EncodedBytes, PagesSent};
use super::stages::SourceStages;
use crate::converge::{DowntimeForecast, ThrottleShare};
use crate::units::{ByteCount, PageCount, Rate};

/// The downtime, from the guest's stop on the source to its start on the target, in its parts.
///
/// The parts follow each other; together they are the downtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DowntimeParts {
    /// From the guest's standstill until it was known here.
    pub stop: Duration,
    /// Harvesting the last dirty pages.
    pub harvest: Duration,
    /// Sending the last pages until the target had placed all of them.
    pub pages: Duration,
    /// Waiting for the digests of verify mode, beyond the sending.
    pub verify: Duration,
    /// Saving, sending and loading device state, until the target was ready.
    pub state: Duration,
    /// Relinquishing the guest on the source, and starting the guest on the target.
    pub hand_over: Duration,
}

impl DowntimeParts {
    /// The whole downtime.
    pub fn total(&self) -> Duration {
        self.without_digests() + self.verify
    }

    /// What was forecast: the downtime but for the digests.
    pub fn without_digests(&self) -> Duration {
        self.stop + self.harvest + self.pages + self.state + self.hand_over
    }
}

/// What references to the target's pages came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DedupReport {
    /// Bytes of pages that did not cross, less what the references took and what was sent again.
    pub saved: ByteCount,
    /// Pages that the target did not have after all, and that were sent again.
    pub missing: PageCount,
    /// Pages of its files that the target told of in time.
    pub base_pages: PageCount,
}

/// A completed migration, as the source saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// From the handshake's start to the guest running on the target.
    pub total: Duration,
    /// The guest's standstill.
    pub downtime: DowntimeParts,
    /// The downtime that was forecast when it was decided to stop the guest.
    pub forecast: Option<DowntimeForecast>,
    /// Whether the guest was stopped at the deadline, although that was longer than is allowed.
    pub forced: bool,
    /// Rounds, the last included.
    pub rounds: u32,
    /// Size of the guest's memory.
    pub guest_bytes: ByteCount,
    /// Bytes of frames of pages on the wire, headers included.
    pub page_wire_bytes: ByteCount,
    /// Bytes of device state, both ways.
    pub state_bytes: ByteCount,
    /// Pages by how they went over.
    pub pages: PagesSent,
    /// What references came to.
    pub dedup: DedupReport,
    /// Bytes of their data, by how they went over.
    pub encoded: EncodedBytes,
    /// How long the stages of the source worked and waited.
    pub stages: SourceStages,
    /// Rate of distinct pages written, over the last precopy round.
    pub dirty: Option<Rate>,
    /// Rate at which the target placed data.
    pub link: Option<Rate>,
    /// The largest share of its time that the guest was kept from running during precopy.
    pub throttle_most: ThrottleShare,
    /// Whether the digests of the whole memory were compared, and equal.
    pub verified: bool,
    /// CPU time the target's process used, as it said itself.
    pub target_cpu: Duration,
}
