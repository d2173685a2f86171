//! A migration in virtual time: workers that read, pack and send blocks, a link with a buffer.
//!
//! Speeds and ratios are those measured for blocks of 64 pages
//! (`docs/decisions/020-blocks-of-pages.md`), with a tenth of noise on each block's time.

use super::super::*;

/// Bytes of a full block.
const BLOCK_BYTES: u64 = 64 * PAGE_BYTES as u64;

/// Time to read a byte, look for zeros and add it to a checksum, and to send one.
const READ_NS: f64 = 0.1;
const SEND_NS: f64 = 0.12;

/// Bytes that a worker's socket buffers, where a test does not say.
const SOCKET_BYTES: f64 = 1e6;

/// Time between observations of the link.
const OBSERVE_S: f64 = 0.05;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Text,
    Code,
    Heap,
    Random,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Text, Self::Code, Self::Heap, Self::Random];

    /// The class that samples of such pages have.
    pub(super) fn class(self) -> ContentClass {
        // A block whose bytes have as many values, evenly spread.
        let values = match self {
            Self::Text => 20,
            Self::Code => 40,
            Self::Heap => 6,
            Self::Random => return ContentClass::RANDOM,
        };
        let bytes: Vec<u8> = (0..PAGE_BYTES).map(|at| (at * 7 % values) as u8).collect();
        ContentClass::of(&bytes)
    }

    /// MB/s and ratio.
    pub(super) fn truth(self, codec: Codec) -> (f64, f64) {
        let level = match codec {
            Codec::Raw => return (f64::INFINITY, 1.0),
            Codec::Lz4 => 0,
            Codec::Zstd(level) => level.get(),
        };
        match (self, level) {
            (Self::Text, -50) => (1964.0, 2.313),
            (Self::Text, -20) => (1334.0, 3.239),
            (Self::Text, -7) => (994.0, 4.318),
            (Self::Text, 0) => (1044.0, 4.349),
            (Self::Text, -1) => (837.0, 5.571),
            (Self::Text, 1) => (826.0, 6.550),
            (Self::Text, 3) => (595.0, 6.788),
            (Self::Text, 7) => (201.0, 7.505),
            (Self::Code, -50) => (3382.0, 1.163),
            (Self::Code, -20) => (1619.0, 1.380),
            (Self::Code, -7) => (954.0, 1.588),
            (Self::Code, 0) => (842.0, 1.729),
            (Self::Code, -1) => (642.0, 2.097),
            (Self::Code, 1) => (591.0, 2.307),
            (Self::Code, 3) => (313.0, 2.489),
            (Self::Code, 7) => (104.0, 2.616),
            (Self::Heap, -50) => (1688.0, 1.409),
            (Self::Heap, -20) => (1054.0, 1.804),
            (Self::Heap, -7) => (741.0, 2.317),
            (Self::Heap, 0) => (759.0, 2.394),
            (Self::Heap, -1) => (566.0, 2.975),
            (Self::Heap, 1) => (499.0, 3.075),
            (Self::Heap, 3) => (409.0, 3.136),
            (Self::Heap, 7) => (117.0, 3.211),
            (Self::Random, -50) => (17800.0, 1.0),
            (Self::Random, -20) => (16800.0, 1.0),
            (Self::Random, -7) => (17300.0, 1.0),
            (Self::Random, 0) => (21500.0, 1.0),
            (Self::Random, -1) => (15300.0, 1.0),
            (Self::Random, 1) => (12400.0, 1.0),
            (Self::Random, 3) => (9600.0, 1.0),
            (Self::Random, 7) => (7000.0, 1.0),
            (kind, level) => panic!("no figures for {kind:?} at level {level}"),
        }
    }
}

/// Every codec there are figures of.
pub(super) fn fixed_menu() -> Vec<Codec> {
    let zstd = [-50, -20, -7, -1, 1, 3, 7]
        .into_iter()
        .filter_map(|level| ZstdLevel::new(level).ok())
        .map(Codec::Zstd);
    [Codec::Raw, Codec::Lz4].into_iter().chain(zstd).collect()
}

/// 64 pages that are read, of which the last `64 - kept` are zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    kind: Kind,
    kept: u64,
    /// Share of the others that is random. It does not show in the class.
    random: f64,
}

impl Block {
    pub(super) fn full(kind: Kind) -> Self {
        Self {
            kind,
            kept: 64,
            random: 0.0,
        }
    }

    /// Bytes that are not zero.
    fn input(self) -> u64 {
        self.kept * PAGE_BYTES as u64
    }

    /// Seconds to pack it, and the bytes that come of it.
    fn packed(self, codec: Codec) -> (f64, f64) {
        let part = |kind: Kind, share: f64| {
            let (mb_per_s, ratio) = kind.truth(codec);
            let bytes = self.input() as f64 * share;
            (bytes / (mb_per_s * 1e6), bytes / ratio)
        };
        let (ordered, random) = (
            part(self.kind, 1.0 - self.random),
            part(Kind::Random, self.random),
        );
        (ordered.0 + random.0, ordered.1 + random.1)
    }
}

/// Blocks of all kinds, in runs of 1 to 8, with at most `kept` pages that are not zero.
pub(super) fn mixed(blocks: usize, seed: u64, kept: u64) -> Vec<Block> {
    let mut state = seed;
    let mut below = |end: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 33) % end
    };
    let mut stream = Vec::new();
    while stream.len() < blocks {
        let kind = Kind::ALL[below(4) as usize];
        for _ in 0..=below(8) {
            let kept = if kept == 64 { 64 } else { below(kept + 1) };
            stream.push(Block {
                kind,
                kept,
                random: 0.0,
            });
        }
    }
    stream.truncate(blocks);
    stream
}

/// Blocks as [`mixed`] makes them, of which each has a share of random content of its own.
pub(super) fn diverse(blocks: usize, seed: u64, kept: u64) -> Vec<Block> {
    let mut state = seed;
    let mut stream = mixed(blocks, seed, kept);
    for block in &mut stream {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let even = (state >> 33) as f64 / (1u64 << 31) as f64;
        block.random = even * even * 0.95;
    }
    stream
}

/// The link's rate in bytes a second, which changes once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) rate: f64,
    pub(super) changes_at: f64,
    pub(super) rate_after: f64,
    /// Whether the connections say what they hold.
    pub(super) shows_queue: bool,
    /// Bytes that the socket of a worker buffers.
    pub(super) socket_bytes: f64,
    /// From when on the target's acknowledgements tell the rate.
    pub(super) told_at: f64,
}

impl Link {
    pub(super) fn steady(rate: f64) -> Self {
        Self {
            rate,
            changes_at: f64::INFINITY,
            rate_after: rate,
            shows_queue: true,
            socket_bytes: SOCKET_BYTES,
            told_at: 0.0,
        }
    }

    fn rate_at(self, now: f64) -> f64 {
        if now < self.changes_at {
            self.rate
        } else {
            self.rate_after
        }
    }
}

/// What came of a migration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Run {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) raw_blocks: usize,
    /// Share of the blocks that were done when the link changed.
    pub(super) done_at_change: f64,
}

/// What a worker does, and until when.
enum State {
    /// Packs a block, and then writes it.
    Works(Packed),
    /// Waits for room in its socket.
    Waits(Packed),
    /// There are no blocks left.
    Rests,
}

/// A block on its way.
#[derive(Clone, Copy)]
struct Packed {
    choice: Option<Choice>,
    outcome: Outcome,
    wire: f64,
    ready: f64,
}

struct Worker {
    chooser: Chooser,
    state: State,
    /// Bytes in its socket.
    queued: f64,
    /// Seconds in which it held any, since the last observation.
    carried: f64,
}

pub(super) fn simulate(
    setting: CompressSetting,
    stream: &[Block],
    link: Link,
    workers: u16,
    limit: CpuLimit,
) -> Run {
    let mut sim = Sim {
        workers: (0..workers)
            .map(|_| Worker {
                chooser: Chooser::new(setting, workers, limit),
                state: State::Rests,
                queued: 0.0,
                carried: 0.0,
            })
            .collect(),
        stream,
        next: 0,
        link,
        limit,
        classes: Kind::ALL.map(Kind::class),
        now: 0.0,
        placed: 0.0,
        observed_at: 0.0,
        noise: 1,
        run: Run::default(),
    };
    for worker in 0..sim.workers.len() {
        sim.take(worker);
    }
    while sim.step() {}
    sim.run.seconds = sim.now;
    sim.run
}

struct Sim<'a> {
    workers: Vec<Worker>,
    stream: &'a [Block],
    next: usize,
    link: Link,
    limit: CpuLimit,
    classes: [ContentClass; 4],
    now: f64,
    placed: f64,
    observed_at: f64,
    noise: u64,
    run: Run,
}

impl Sim<'_> {
    /// Gives a worker the next block.
    fn take(&mut self, index: usize) {
        let workers = self.workers.len() as u16;
        let worker = &mut self.workers[index];
        let Some(block) = self.stream.get(self.next) else {
            worker.state = State::Rests;
            return;
        };
        self.next += 1;
        if self.now < self.link.changes_at {
            self.run.done_at_change += 1.0 / self.stream.len() as f64;
        }
        let input = block.input();
        let class = self.classes[block.kind as usize];
        let choice = (input > 0).then(|| worker.chooser.choose_for(class, input as usize));
        let (mut encode, mut wire, mut tried) = (0.0, 0.0, None);
        if let Some(choice) = choice {
            self.noise = self
                .noise
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(1);
            let factor = 0.9 + 0.2 * ((self.noise >> 33) as f64 / (1u64 << 31) as f64);
            (encode, wire) = block.packed(choice.codec());
            encode *= factor;
            tried = choice.trial().map(|trial| {
                let (encode, wire) = block.packed(trial);
                Tried {
                    encode: Duration::from_secs_f64(encode * factor),
                    wire_bytes: wire as u64,
                }
            });
            self.run.raw_blocks += usize::from(choice.codec() == Codec::Raw);
        }
        let read = BLOCK_BYTES as f64 * READ_NS * 1e-9;
        let wire_bytes = wire as u64;
        // Runs and headers.
        let wire = wire + 44.0 + 20.0 * (64 - block.kept) as f64;
        let send = wire * SEND_NS * 1e-9;
        let trial = tried.map_or(0.0, |tried: Tried| tried.encode.as_secs_f64());
        let busy = read + encode + trial + send;
        self.run.cpu_seconds += busy;
        let pause = self.limit.pause(Duration::from_secs_f64(busy), workers);
        worker.state = State::Works(Packed {
            choice,
            outcome: Outcome {
                input_bytes: input,
                wire_bytes,
                read: Duration::from_secs_f64(read),
                encode: Duration::from_secs_f64(encode),
                tried,
                send: Duration::from_secs_f64(send),
                ..Outcome::default()
            },
            wire,
            ready: self.now + busy + pause.as_secs_f64(),
        });
    }

    /// Goes on to the next moment at which something happens.
    fn step(&mut self) -> bool {
        let senders = self.workers.iter().filter(|w| w.queued > 0.0).count();
        // Connections share the link evenly.
        let share = self.link.rate_at(self.now) / senders.max(1) as f64;
        let mut until = f64::INFINITY;
        if self.now < self.link.changes_at {
            until = self.link.changes_at;
        }
        for worker in &self.workers {
            if worker.queued > 0.0 {
                until = until.min(self.now + worker.queued / share);
            }
            match &worker.state {
                State::Works(packed) => until = until.min(packed.ready),
                State::Waits(_) => {
                    until = until
                        .min(self.now + (worker.queued - self.link.socket_bytes).max(0.0) / share);
                }
                State::Rests => {}
            }
        }
        let over = senders == 0 && self.workers.iter().all(|w| matches!(w.state, State::Rests));
        if over {
            return false;
        }
        let time = (until - self.now).max(0.0);
        let carried = time * share;
        self.now = until;
        for worker in &mut self.workers {
            worker.carried += if worker.queued > 0.0 { time } else { 0.0 };
            // Less than a byte is a matter of rounding.
            let left = worker.queued - carried;
            let left = if left < 1.0 { 0.0 } else { left };
            self.placed += worker.queued - left;
            worker.queued = left;
        }
        for index in 0..self.workers.len() {
            self.advance(index);
        }
        self.observe();
        true
    }

    fn advance(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        match worker.state {
            State::Works(mut packed) if packed.ready <= self.now => {
                let shown = self.link.shows_queue;
                packed.outcome.unsent_bytes = shown.then_some(worker.queued as u64);
                let room = self.link.socket_bytes as u64;
                packed.outcome.buffer_bytes = shown.then_some(room);
                worker.queued += packed.wire;
                worker.state = State::Waits(packed);
            }
            _ => {}
        }
        if let State::Waits(mut packed) = worker.state
            && worker.queued <= self.link.socket_bytes + 1.0
        {
            packed.outcome.waited = Duration::from_secs_f64((self.now - packed.ready).max(0.0));
            packed.outcome.done = Instant((self.now * 1e9) as u64);
            if let Some(choice) = packed.choice {
                worker.chooser.record(choice, packed.outcome);
            }
            self.take(index);
        }
    }

    fn observe(&mut self) {
        let elapsed = self.now - self.observed_at;
        if elapsed < OBSERVE_S {
            return;
        }
        let placed = Rate((self.placed / elapsed) as u64);
        for worker in &mut self.workers {
            let now = Instant((self.now * 1e9) as u64);
            let carried = std::mem::take(&mut worker.carried);
            let conditions = LinkConditions {
                placed: (self.now >= self.link.told_at).then_some(placed),
                carrying: self.link.shows_queue.then_some(carried / elapsed),
                ..LinkConditions::default()
            };
            worker.chooser.observe(now, conditions);
        }
        (self.placed, self.observed_at) = (0.0, self.now);
    }
}
