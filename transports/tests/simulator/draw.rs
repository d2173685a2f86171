//! How a seed becomes a plan: what is drawn, and how often.
//!
//! Draws are in a fixed order, so that a seed names the same plan for ever; what came later is
//! drawn from the seed alone, or at the end.

use std::num::NonZeroU16;
use std::time::Duration;

use pagelift_engine::codec::dedup::DedupSetting;
use pagelift_engine::codec::select::CpuLimit;
use pagelift_engine::codec::{Codec, CompressSetting, ZstdLevel};
use pagelift_engine::converge::{AtDeadline, Limits, ThrottleShare};
use pagelift_engine::migration::DowntimeLimit;
use pagelift_engine::units::{PAGE_BYTES, Rate};
use pagelift_engine::wire::FrameType;
use pagelift_transports::sim::{NetworkConfig, SimRng};

use super::knobs::{Turn, Wishes};
use super::memory::Side;
use super::plan::{BasePagesPlan, Fault, Moment, Pattern, Plan, PlannedFault, PolicyPlan};
use super::truth::Mishap;

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
            // Numbers of its own, so that all else is as it would be without.
            one_sided: SimRng::new(seed.rotate_left(32) ^ 0x7264_6d61).one_in(4),
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
            downtime_limit: downtime_limit(seed),
            agents: !seed.is_multiple_of(4),
            policy: if whim {
                PolicyPlan::Whim {
                    stop_at: u32::try_from(rng.below(20)).unwrap_or(0),
                    give_up: rng.one_in(12),
                }
            } else {
                PolicyPlan::Fits {
                    downtime: match rng.below(30) {
                        // Less than what a downtime costs with nothing to send.
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
            freeze: freeze(seed),
            faults: Vec::new(),
            knobs: Vec::new(),
            mishaps: Vec::new(),
            lose_marks: None,
            damage_placed: None,
            sabotage: None,
            dedup: DedupSetting::Off,
            base_pages: None,
            facts_differ: rng.one_in(80),
            second_attempt: rng.one_in(4),
            authenticated: true,
            strangers: Vec::new(),
            forgeries: Vec::new(),
        };
        plan.go_wrong(&mut rng, transfer);
        plan.draw_base_pages(&mut rng);
        plan.be_steered(transfer);
        plan.be_capped(transfer);
        plan.be_struck(transfer);
        plan.be_unanswered();
        plan.write_a_lot(transfer);
        plan.meet_others(transfer);
        plan
    }

    /// In every thirtieth seed the guest writes more than fits, and there is time to throttle it.
    fn write_a_lot(&mut self, transfer: Duration) {
        // Numbers of its own, as above.
        let mut rng = SimRng::new(self.seed.rotate_left(32) ^ 0x7772_6974);
        if !rng.one_in(30) {
            return;
        }
        let pages_per_s = self.network.rate.0 as f64 / PAGE_BYTES as f64;
        self.writes_per_s = pages_per_s * 1.5;
        self.pattern = Pattern::Uniform;
        let patience = transfer * 20 + Duration::from_secs(2);
        let wishes = Wishes {
            transfer,
            patience,
            least: self.network.latency * 4,
        };
        self.policy = PolicyPlan::Limited(Limits {
            deadline: None,
            throttle_most: Some(ThrottleShare::permille(990)),
            ..wishes.limits(&mut rng)
        });
        let last = Turn::Deadline(Some(patience), AtDeadline::Force);
        self.knobs = vec![(patience, last)];
    }

    /// Decides what the target has of the guest, and whether anybody looks.
    fn draw_base_pages(&mut self, rng: &mut SimRng) {
        use DedupSetting::{Auto, Off, On};
        self.dedup = rng.pick(&[Off, On, On, Auto]);
        if rng.one_in(2) {
            self.base_pages = Some(BasePagesPlan {
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
        self.policy = PolicyPlan::Limited(wishes.limits(&mut rng));
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

    /// In every third seed that has agents a program hangs or is killed, at any step.
    fn be_struck(&mut self, transfer: Duration) {
        // Numbers of its own, as above.
        let mut rng = SimRng::new(self.seed.rotate_left(32) ^ 0x6861_6e67);
        if !self.agents || !rng.one_in(3) {
            return;
        }
        let side = rng.pick(&[Side::Source, Side::Source, Side::Target]);
        let time = Duration::from_millis(rng.pick(&[10, 1000, 4000, 9000, 27_000, 40_000]));
        let fault = match rng.one_in(2) {
            true => Fault::Kill(side),
            false => Fault::Hang(side, time),
        };
        self.faults.push(PlannedFault {
            moment: moment(&mut rng, transfer, self.network.latency),
            fault,
            refuse: Duration::ZERO,
        });
    }

    /// In every eighth seed that has agents the hand-over's record is not answered.
    fn be_unanswered(&mut self) {
        // Numbers of its own, as above.
        let mut rng = SimRng::new(self.seed.rotate_left(32) ^ 0x616e_7377);
        if self.agents && rng.one_in(8) {
            let mishap = rng.pick(&[Mishap::AnswerLost, Mishap::RecordLost]);
            self.mishaps.push((mishap, 1));
        }
    }

    /// In every seventh seed the rate is capped for a while.
    fn be_capped(&mut self, transfer: Duration) {
        // Numbers of its own, as above.
        let mut rng = SimRng::new(self.seed.rotate_left(32) ^ 0x6361_7070);
        if !rng.one_in(7) {
            return;
        }
        let begins = rng.time(transfer);
        let cap = Rate(self.network.rate.0 / rng.between(2, 10));
        let lifted = begins + rng.time(transfer * 3);
        self.knobs.push((begins, Turn::Bandwidth(Some(cap))));
        self.knobs.push((lifted, Turn::Bandwidth(None)));
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

/// In every twelfth seed; the longer ones outlast the target's patience. From the seed alone.
fn freeze(seed: u64) -> Option<Duration> {
    let mut rng = SimRng::new(seed.rotate_left(16) ^ 0x6672_657a);
    let seconds = rng.pick(&[1, 4, 10, 27, 40]);
    rng.one_in(12).then(|| Duration::from_secs(seconds))
}

/// In every third seed the user has set it, often so low that it is reached. From the seed alone.
fn downtime_limit(seed: u64) -> DowntimeLimit {
    let mut rng = SimRng::new(seed.rotate_left(16) ^ 0x6c69_6d69);
    let ms = rng.pick(&[1, 10, 100, 1000, 10_000]);
    match rng.one_in(3) {
        true => DowntimeLimit::Fixed(Duration::from_millis(ms)),
        false => DowntimeLimit::Auto,
    }
}

/// Virtual time takes none of the processor's, so a limit must change nothing.
fn cpu(seed: u64) -> CpuLimit {
    CpuLimit {
        percent: NonZeroU16::new(if seed.is_multiple_of(5) { 30 } else { 0 }),
        threads: None,
    }
}

pub(super) fn moment(rng: &mut SimRng, transfer: Duration, latency: Duration) -> Moment {
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
