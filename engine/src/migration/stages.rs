//! How long the stages of the pipeline worked and waited: where the bottleneck is.
//!
//! Times are sums over all threads of a side: each data channel has one, which passes a frame
//! through all stages. Each stage names what it waits for.

use std::ops::AddAssign;
use std::time::Duration;

/// How long one stage worked and waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTime {
    /// Working.
    pub busy: Duration,
    /// Waiting.
    pub waiting: Duration,
}

impl AddAssign for StageTime {
    fn add_assign(&mut self, other: Self) {
        self.busy += other.busy;
        self.waiting += other.waiting;
    }
}

/// The stages of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceStages {
    /// Reading guest memory; waits for pages to send, and for acknowledgements while too many
    /// frames are under way.
    pub read: StageTime,
    /// Finding zeros, filled pages and deltas, and packing; rests for a limit of the processors.
    pub encode: StageTime,
    /// Checksums and writing to the connections; waits for them to take more.
    pub send: StageTime,
    /// The part of that waiting for which the target is to blame: it had no room for more, as
    /// far as the connections can tell.
    pub target_full: Duration,
}

impl SourceStages {
    /// Everything the threads spent.
    pub fn total(&self) -> Duration {
        let stages = [self.read, self.encode, self.send];
        stages.iter().map(|stage| stage.busy + stage.waiting).sum()
    }
}

impl AddAssign for SourceStages {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.encode += other.encode;
        self.send += other.send;
        self.target_full += other.target_full;
    }
}

/// The stages of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetStages {
    /// Reading from the connections and checksums; waits for data to arrive.
    pub receive: StageTime,
    /// Unpacking and applying deltas; never waits.
    pub decode: StageTime,
    /// Writing guest memory; waits for the other channels at the end of a round.
    pub place: StageTime,
}

impl TargetStages {
    /// Everything the threads spent.
    pub fn total(&self) -> Duration {
        let stages = [self.receive, self.decode, self.place];
        stages.iter().map(|stage| stage.busy + stage.waiting).sum()
    }
}

impl AddAssign for TargetStages {
    fn add_assign(&mut self, other: Self) {
        self.receive += other.receive;
        self.decode += other.decode;
        self.place += other.place;
    }
}
