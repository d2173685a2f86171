//! A plan: the guest, the network and the faults of one run. [`draw`](super::draw) makes it of a seed.

use std::time::Duration;

use pagelift_engine::codec::CompressSetting;
use pagelift_engine::codec::dedup::DedupSetting;
use pagelift_engine::codec::select::CpuLimit;
use pagelift_engine::converge::Limits;
use pagelift_engine::migration::DowntimeLimit;
use pagelift_engine::wire::FrameType;
use pagelift_transports::sim::NetworkConfig;

use super::forger::Forgery;
use super::knobs::Turn;
use super::memory::Side;
use super::person::Deed;
use super::strangers::Visit;
use super::truth::Mishap;

/// Which pages the guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    Uniform,
    Zipf,
    Sequential,
    Phases,
}

/// A rule broken on purpose, to see that the checker objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The target's guest runs as soon as it is loaded.
    RunWithoutGrant,
    /// The source's guest goes on when it is given up.
    KeepRunning,
}

/// What goes wrong with the network, or who loses patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// All connections break.
    ResetAll,
    /// One connection breaks, not the first one.
    ResetOne,
    /// Nothing arrives for so long; new connections are refused as long.
    HoldAll(Duration),
    /// Nothing arrives on one connection, not the first one.
    HoldOne(Duration),
    /// One direction of some connection ends.
    HalfClose,
    /// A bit of some connection flips.
    Corrupt,
    /// Somebody cancels.
    Cancel(Side),
    /// A program stands still for so long.
    Hang(Side, Duration),
    /// A program is killed.
    Kill(Side),
    /// A person does something at a monitor.
    Person(Deed),
}

impl Fault {
    /// Whether a migration may fail by it.
    pub fn harms(self) -> bool {
        !matches!(
            self,
            Self::Person(Deed::Continue(Side::Source) | Deed::Stop(_) | Deed::Settle)
        )
    }
}

/// When it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long after the beginning.
    After(Duration),
    /// So long after that side writes a frame of that type.
    Frame(Side, FrameType, Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedFault {
    pub moment: Moment,
    pub fault: Fault,
    /// New connections are refused for so long afterwards.
    pub refuse: Duration,
}

/// When the source stops its guest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PolicyPlan {
    /// The engine's own.
    Fits {
        downtime: Duration,
        timeout: Duration,
    },
    /// When asked for the n-th time, be it within a round.
    Whim { stop_at: u32, give_up: bool },
    /// A user's, who may change their mind.
    Limited(Limits),
}

/// What a target has of the guest from before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BasePagesPlan {
    /// Share of its pages that are as they are now.
    pub share: f64,
    /// At other page numbers.
    pub elsewhere: bool,
    /// Change a byte, or fail, once in so many readings.
    pub changes_one_in: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub compress: CompressSetting,
    pub cpu: CpuLimit,
    pub pages: u64,
    pub filled: f64,
    pub pattern: Pattern,
    pub writes_per_s: f64,
    pub network: NetworkConfig,
    pub channels: u16,
    pub frame_pages: u64,
    pub verify: bool,
    pub downtime_limit: DowntimeLimit,
    /// Both QEMUs have an agent.
    pub agents: bool,
    pub policy: PolicyPlan,
    pub state_bytes: usize,
    pub state_pieces: usize,
    pub load_calls: u32,
    /// What the loading of one piece takes.
    pub piece_takes: Duration,
    pub stop_takes: Duration,
    /// The source's process stands still for so long when it has relinquished the guest and has
    /// told nobody.
    pub freeze: Option<Duration>,
    pub faults: Vec<PlannedFault>,
    /// Turns of knobs, and how long after the beginning.
    pub knobs: Vec<(Duration, Turn)>,
    pub mishaps: Vec<(Mishap, u64)>,
    /// Lose a mark once in so many harvests.
    pub lose_marks: Option<u64>,
    pub damage_placed: Option<u64>,
    pub sabotage: Option<Sabotage>,
    pub dedup: DedupSetting,
    pub base_pages: Option<BasePagesPlan>,
    pub facts_differ: bool,
    /// Whether to move the guest again after a failure.
    pub second_attempt: bool,
    /// Each side knows who the other one is.
    pub authenticated: bool,
    /// Who comes to the target's door, and how long after the beginning.
    pub strangers: Vec<(Duration, Visit)>,
    pub forgeries: Vec<Forgery>,
}

impl Plan {
    /// The same guest once more, over a link without faults and with all the time it wants.
    pub fn healthy(&self) -> Self {
        Self {
            policy: PolicyPlan::Fits {
                downtime: Duration::from_secs(60),
                timeout: Duration::from_secs(60),
            },
            // With room for what a long path carries, whatever the guest writes fits.
            network: NetworkConfig {
                buffer_bytes: 1 << 20,
                ..self.network
            },
            faults: Vec::new(),
            freeze: None,
            knobs: Vec::new(),
            mishaps: Vec::new(),
            lose_marks: None,
            damage_placed: None,
            sabotage: None,
            facts_differ: false,
            forgeries: Vec::new(),
            verify: true,
            downtime_limit: DowntimeLimit::Fixed(Duration::from_secs(600)),
            ..self.clone()
        }
    }
}
