//! What a seed stands for: a guest, a network, and what goes wrong.

use std::num::NonZeroU16;
use std::time::Duration;

use pagelift_engine::codec::choose::CpuLimit;
use pagelift_engine::codec::reference::ReferenceSetting;
use pagelift_engine::codec::{Codec, CompressSetting, ZstdLevel};
use pagelift_engine::converge::{AtDeadline, Limits};
use pagelift_engine::units::{PAGE_BYTES, Rate};
use pagelift_engine::wire::FrameType;
use pagelift_transports::sim::{NetworkConfig, SimRng};

use super::knobs::{Turn, Wishes};
use super::memory::Side;
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
    Steered(Limits),
}

/// What a target has of the guest from before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeptPlan {
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
    pub policy: PolicyPlan,
    pub state_bytes: usize,
    pub state_pieces: usize,
    pub load_calls: u32,
    /// What the loading of one piece takes.
    pub piece_takes: Duration,
    pub stop_takes: Duration,
    pub faults: Vec<PlannedFault>,
    /// Turns of knobs, and how long after the beginning.
    pub knobs: Vec<(Duration, Turn)>,
    pub mishaps: Vec<(Mishap, u64)>,
    /// Lose a mark once in so many harvests.
    pub lose_marks: Option<u64>,
    pub damage_placed: Option<u64>,
    pub sabotage: Option<Sabotage>,
    pub references: ReferenceSetting,
    pub kept: Option<KeptPlan>,
    pub facts_differ: bool,
    /// Whether to move the guest again after a failure.
    pub second_attempt: bool,
}

impl Plan {
    /// The plan that `seed` names.
    pub fn new(seed: u64) -> Self {
        let mut rng = SimRng::new(seed);
        let pages = match rng.below(20) {
            0 => rng.between(800, 2000),
            1..=4 => rng.between(200, 800),
            _ => rng.between(2, 200),
        };
        let rate = Rate(1_000_000 * rng.pick(&[2, 5, 20, 50, 200]));
        let latency = Duration::from_micros(rng.pick(&[20, 200, 1000, 5000, 20_000]));
        let network = NetworkConfig {
            rate,
            latency,
            jitter: latency.mul_f64(rng.pick(&[0.0, 0.5, 3.0])),
            buffer_bytes: rng.pick(&[4 << 10, 64 << 10, 1 << 20]),
            // At most some ten thousand pieces a second, or a run takes too long.
            piece_bytes: rng
                .pick(&[1500, 16 << 10, 256 << 10])
                .max(rate.0 as usize / 10_000),
        };
        let pages_per_s = rate.0 as f64 / PAGE_BYTES as f64;
        let transfer = Duration::from_secs_f64(pages as f64 / pages_per_s) + latency * 12;
        let whim = rng.one_in(3);
        let mut plan = Self {
            seed,
            compress: compress(seed),
            cpu: cpu(seed),
            pages,
            filled: rng.pick(&[0.0, 0.3, 0.7, 1.0]),
            pattern: rng.pick(&[
                Pattern::Uniform,
                Pattern::Zipf,
                Pattern::Sequential,
                Pattern::Phases,
            ]),
            writes_per_s: pages_per_s * rng.pick(&[0.0, 0.01, 0.1, 0.4, 0.8, 1.5]),
            network,
            channels: rng.pick(&[1, 1, 2, 3, 4, 8]),
            frame_pages: rng.pick(&[1, 2, 8, 64, 256]),
            verify: rng.one_in(2),
            policy: if whim {
                PolicyPlan::Whim {
                    stop_at: u32::try_from(rng.below(20)).unwrap_or(0),
                    give_up: rng.one_in(12),
                }
            } else {
                PolicyPlan::Fits {
                    downtime: match rng.below(30) {
                        // Less than what a blackout costs with nothing to send.
                        0 => latency * 2,
                        _ => latency * 4 + transfer.mul_f64(rng.unit()),
                    },
                    timeout: Duration::from_secs(if rate.0 > 5_000_000 { 2 } else { 20 }),
                }
            },
            state_bytes: match rng.below(40) {
                0 => 5 << 20,
                1..=3 => 0,
                _ => rng.below(200 << 10) as usize,
            },
            state_pieces: rng.pick(&[1, 4, 1000]),
            load_calls: u32::try_from(rng.below(4)).unwrap_or(0),
            // With the largest state: longer than the other side may be silent.
            piece_takes: Duration::from_millis(rng.pick(&[0, 0, 1, 100])),
            stop_takes: match rng.below(60) {
                0 => Duration::from_secs(7),
                _ => rng.time(Duration::from_millis(5)),
            },
            faults: Vec::new(),
            knobs: Vec::new(),
            mishaps: Vec::new(),
            lose_marks: None,
            damage_placed: None,
            sabotage: None,
            references: ReferenceSetting::Off,
            kept: None,
            facts_differ: rng.one_in(80),
            second_attempt: rng.one_in(4),
        };
        plan.go_wrong(&mut rng, transfer);
        plan.refer(&mut rng);
        plan.be_steered(transfer);
        plan
    }

    /// Decides what the target has of the guest, and whether anybody looks.
    fn refer(&mut self, rng: &mut SimRng) {
        use ReferenceSetting::{Auto, Off, On};
        self.references = rng.pick(&[Off, On, On, Auto]);
        if rng.one_in(2) {
            self.kept = Some(KeptPlan {
                share: rng.pick(&[0.0, 0.5, 0.95, 1.0]),
                elsewhere: rng.one_in(4),
                changes_one_in: rng.pick(&[None, Some(2), Some(2), Some(20)]),
            });
        }
    }

    /// In every third seed the policy is a user's, and knobs are turned while it runs.
    fn be_steered(&mut self, transfer: Duration) {
        // Numbers of its own, so that all else is as it would be without.
        let mut rng = SimRng::new(self.seed.rotate_left(32) ^ 0x6b6e_6f62);
        if !rng.one_in(3) {
            return;
        }
        // A fast link makes for many steps in little time.
        let seconds = match self.network.rate.0 {
            100_000_000.. => 1,
            5_000_001.. => 2,
            _ => 6,
        };
        let patience = Duration::from_secs(seconds) + transfer;
        let wishes = Wishes {
            transfer,
            patience,
            least: self.network.latency * 4,
        };
        self.policy = PolicyPlan::Steered(wishes.limits(&mut rng));
        for _ in 0..rng.below(5) {
            let time = rng.pick(&[transfer * 3, patience]);
            let time = rng.time(time);
            self.knobs.push((time, wishes.turn(&mut rng)));
        }
        let cancelled = rng.one_in(4);
        // Nobody has all the time in the world: in the end it goes by force, or not at all.
        let action = rng.pick(&[AtDeadline::Cancel, AtDeadline::Force]);
        let last = Turn::Deadline(Some(patience), action);
        self.knobs.push((patience, last));
        if cancelled {
            self.faults.push(PlannedFault {
                moment: Moment::After(rng.time(transfer * 2 + Duration::from_secs(2))),
                fault: Fault::Cancel(Side::Source),
                refuse: Duration::ZERO,
            });
        }
    }

    /// Decides what goes wrong in a run that should take about twice `transfer`.
    fn go_wrong(&mut self, rng: &mut SimRng, transfer: Duration) {
        let faults = rng.pick(&[0, 0, 0, 1, 1, 1, 1, 2, 3]);
        for _ in 0..faults {
            let fault = PlannedFault {
                moment: moment(rng, transfer, self.network.latency),
                fault: fault(rng),
                refuse: match rng.below(4) {
                    0 => rng.time(Duration::from_secs(6)),
                    1 => Duration::from_secs(rng.pick(&[9, 30])),
                    _ => Duration::ZERO,
                },
            };
            self.faults.push(fault);
        }
        if rng.one_in(6) {
            let few = rng.between(1, 4);
            let mishap = match rng.below(11) {
                0 => (Mishap::Arm, 1),
                1 => (Mishap::Harvest, few),
                2 => (Mishap::Populated, 1),
                3 => (Mishap::SourceRead, rng.between(1, self.pages)),
                4 => (Mishap::Stop, 1),
                5 => (Mishap::SaveState, 1),
                6 => (Mishap::GiveUp, 1),
                7 => (Mishap::TargetWrite, rng.between(1, self.pages)),
                8 => (Mishap::TargetRead, few),
                9 => (Mishap::IsLoaded, few),
                _ => (Mishap::Run, 1),
            };
            self.mishaps.push(mishap);
        }
        // Errors that only the digest can find: they must not go unnoticed.
        match rng.below(50) {
            0 => self.lose_marks = Some(2),
            1 => self.damage_placed = Some(rng.below(self.pages)),
            _ => return,
        }
        self.verify = true;
    }

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
            knobs: Vec::new(),
            mishaps: Vec::new(),
            lose_marks: None,
            damage_placed: None,
            sabotage: None,
            facts_differ: false,
            verify: true,
            ..self.clone()
        }
    }
}

/// How pages are compressed. From the seed alone, so that a change here leaves the rest of a
/// plan as it was.
fn compress(seed: u64) -> CompressSetting {
    let level = |level| ZstdLevel::new(level).map_or(Codec::Lz4, Codec::Zstd);
    match seed / 3 % 8 {
        0 | 1 => CompressSetting::Fixed(Codec::Raw),
        2 => CompressSetting::Xbzrle,
        3 => CompressSetting::Fixed(Codec::Lz4),
        4 => CompressSetting::Fixed(level(1)),
        _ => CompressSetting::Auto,
    }
}

/// Virtual time takes none of the processor's, so a limit must change nothing.
fn cpu(seed: u64) -> CpuLimit {
    CpuLimit {
        percent: NonZeroU16::new(if seed.is_multiple_of(5) { 30 } else { 0 }),
        threads: None,
    }
}

fn moment(rng: &mut SimRng, transfer: Duration, latency: Duration) -> Moment {
    if rng.one_in(3) {
        return Moment::After(rng.time(transfer * 3));
    }
    let (side, kind) = rng.pick(&[
        (Side::Source, FrameType::Hello),
        (Side::Target, FrameType::Accept),
        (Side::Source, FrameType::Join),
        (Side::Source, FrameType::RoundEnd),
        (Side::Source, FrameType::LastRound),
        (Side::Target, FrameType::Complete),
        (Side::Source, FrameType::State),
        (Side::Target, FrameType::Ready),
        (Side::Target, FrameType::Ready),
        (Side::Source, FrameType::HandOver),
        (Side::Source, FrameType::HandOver),
        (Side::Source, FrameType::HandOver),
        (Side::Target, FrameType::Running),
        (Side::Target, FrameType::Running),
        (Side::Source, FrameType::Reattach),
        (Side::Source, FrameType::Settled),
        (Side::Source, FrameType::Abort),
    ]);
    Moment::Frame(side, kind, rng.time(latency * 4))
}

fn fault(rng: &mut SimRng) -> Fault {
    match rng.below(15) {
        0..=2 => Fault::ResetAll,
        3 => Fault::ResetOne,
        4 => Fault::HoldAll(rng.time(Duration::from_secs(2))),
        // About as long as a side takes to call the other one dead.
        5 | 14 => Fault::HoldAll(Duration::from_millis(rng.between(3000, 9000))),
        6 => Fault::HoldAll(Duration::from_secs(1_000_000)),
        7 => Fault::HoldOne(rng.time(Duration::from_secs(10))),
        8 => Fault::HoldOne(Duration::from_secs(1_000_000)),
        9 => Fault::HalfClose,
        10 | 11 => Fault::Corrupt,
        12 => Fault::Cancel(Side::Source),
        _ => Fault::Cancel(Side::Target),
    }
}
