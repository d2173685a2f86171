//! Where a migration is, in one word for both sides.

/// The phase of a migration as one side sees it. The two sides are at most a message apart.
///
/// A phase is followed by the next one of its side's column, or by [`Failed`](Self::Failed); a
/// stopped guest never goes back to a round. Between two looks phases may have been skipped.
///
/// | phase | source | target |
/// |---|---|---|
/// | `Handshake` | waits for the target's answer | waits for a source |
/// | `Preparing` | arms dirty tracking | clears its memory, and then agrees |
/// | `Precopy` | rounds of pages while the guest runs; the round only grows | places them |
/// | `Stopping` | the guest is being stopped | |
/// | `LastRound` | sends the pages written last; digests | places them; digests |
/// | `DeviceState` | saves and sends it | loads it |
/// | `Ready` | the target is prepared: the guest is the source's still | waits for the source's word |
/// | `HandingOver` | has relinquished the guest | owns the guest and starts it |
/// | `Completed` | knows that the guest runs on the target | the guest runs |
/// | `Failed` | from any phase but `HandingOver` and `Completed` | from any but `Completed` |
///
/// A source that has relinquished the guest stays in `HandingOver` when its connection fails, since
/// asking the target again may still complete the migration; whether it failed is then the
/// [`Failure`](super::Failure)'s to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The sides do not know yet whether the guest fits.
    Handshake,
    /// The side prepares its memory for the first round.
    Preparing,
    /// The guest runs on the source, and its pages are sent.
    Precopy {
        /// The round under way, or that has just ended; from 1.
        round: u32,
    },
    /// The guest is being stopped on the source.
    Stopping,
    /// The guest stands still, and the pages it wrote last are sent and placed.
    LastRound,
    /// All pages are at the target; the device state is saved, sent and loaded.
    DeviceState,
    /// The target has everything; the guest is the source's until it says otherwise.
    Ready,
    /// The source has relinquished the guest, and the target is to run it.
    HandingOver,
    /// The guest runs on the target.
    Completed,
    /// The migration ended without completing.
    Failed,
}

impl Phase {
    /// A stable name for scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Preparing => "preparing",
            Self::Precopy { .. } => "precopy",
            Self::Stopping => "stopping",
            Self::LastRound => "last-round",
            Self::DeviceState => "device-state",
            Self::Ready => "ready",
            Self::HandingOver => "handing-over",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// Whether the guest is being stopped or stands still for the switchover.
    pub fn is_downtime(self) -> bool {
        matches!(
            self,
            Self::Stopping | Self::LastRound | Self::DeviceState | Self::Ready | Self::HandingOver
        )
    }
}
