//! The two machines as tests begin with them.

use pagelift_engine::converge::Policy;
use pagelift_engine::memory::Layout;
use pagelift_engine::migration::{DowntimeLimit, SourceConfig, TargetConfig};
use pagelift_engine::wire::{Encodings, SessionId};

/// The migration that they are of.
pub(crate) const SESSION: SessionId = SessionId(7);

/// A source of one channel.
pub(crate) fn source_config(layout: Layout, policy: Box<dyn Policy>) -> SourceConfig {
    SourceConfig {
        session: SESSION,
        channels: 1,
        frame_pages: 16,
        verify: false,
        downtime_limit: DowntimeLimit::Auto,
        dedup: None,
        layout,
        files: Vec::new(),
        persistent: Vec::new(),
        properties: Vec::new(),
        needs: Encodings::none(),
        policy,
    }
}

/// A target for the same guest.
pub(crate) fn target_config(layout: Layout) -> TargetConfig {
    TargetConfig {
        layout,
        files: Vec::new(),
        persistent: Vec::new(),
        properties: Vec::new(),
        reads: Encodings::readable(),
        dedup: None,
    }
}
