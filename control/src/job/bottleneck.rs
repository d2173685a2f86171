//! The bottleneck of a migration: the stage that took the most time.

use std::time::Duration;

use pagelift_engine::migration::{SourceStages, TargetStages};

/// What bounds a migration, as one of its sides sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bottleneck {
    /// Source: sending waited for the link.
    Link,
    /// Source: sending waited for the target to take more.
    Target,
    /// Source: encoding pages.
    Encode,
    /// Source: threads paused for the CPU limit.
    CpuLimit,
    /// Source: reading guest memory.
    Read,
    /// Source: checksums, and writing to the link.
    Send,
    /// Target: receiving waited for the source or the link.
    Source,
    /// Target: reading from the link, and checksums.
    Receive,
    /// Target: decoding pages.
    Decode,
    /// Target: writing guest memory.
    Place,
    /// Source: nothing; there were no pages to send.
    Idle,
    /// Target: nothing; connections waited for each other.
    IdleConnections,
}

impl Bottleneck {
    /// Its name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Target => "target",
            Self::Encode => "encode",
            Self::CpuLimit => "cpu-limit",
            Self::Read => "read",
            Self::Send => "send",
            Self::Source => "source",
            Self::Receive => "receive",
            Self::Decode => "decode",
            Self::Place => "place",
            Self::Idle | Self::IdleConnections => "idle",
        }
    }

    /// What bounded a source, and the time that it took; `None` if nothing took any.
    pub fn of_source(stages: &SourceStages) -> Option<(Self, Duration)> {
        let link = stages.send.waiting.saturating_sub(stages.target_full);
        longest([
            (Self::Link, link),
            (Self::Target, stages.target_full),
            (Self::Encode, stages.encode.busy),
            (Self::CpuLimit, stages.encode.waiting),
            (Self::Read, stages.read.busy),
            (Self::Send, stages.send.busy),
            (Self::Idle, stages.read.waiting),
        ])
    }

    /// As [`of_source`](Self::of_source), as a target sees it.
    pub fn of_target(stages: &TargetStages) -> Option<(Self, Duration)> {
        longest([
            (Self::Source, stages.receive.waiting),
            (Self::Receive, stages.receive.busy),
            (Self::Decode, stages.decode.busy),
            (Self::Place, stages.place.busy),
            (Self::IdleConnections, stages.place.waiting),
        ])
    }
}

fn longest<const N: usize>(all: [(Bottleneck, Duration); N]) -> Option<(Bottleneck, Duration)> {
    let longest = all.into_iter().max_by_key(|(_, time)| *time);
    longest.filter(|(_, time)| !time.is_zero())
}
