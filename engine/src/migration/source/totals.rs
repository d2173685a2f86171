//! What a source has sent in all.

use crate::migration::counters::{EncodedBytes, PagesSent, SentFrame};
use crate::migration::stages::SourceStages;
use crate::units::ByteCount;

/// Sums over the whole migration.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Pages by how they went over.
    pub(super) pages: PagesSent,
    /// Bytes of their data, by how they went over.
    pub(super) encoded: EncodedBytes,
    /// How long the stages worked and waited.
    pub(super) stages: SourceStages,
    /// Bytes of frames of pages on the wire.
    pub(super) page_wire_bytes: ByteCount,
    /// Bytes of device state, both ways.
    pub(super) state_bytes: ByteCount,
}

impl Totals {
    /// A frame is on the wire.
    pub(super) fn count(&mut self, frame: &SentFrame) {
        self.pages.count(frame);
        self.encoded += frame.encoded;
        self.stages += frame.stages;
        self.page_wire_bytes += frame.bytes;
    }
}
