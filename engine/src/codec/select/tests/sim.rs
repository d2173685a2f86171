//! A migration in virtual time: channels that read, pack and send blocks, and a link with buffers.
//!
//! Speeds and ratios are those measured for blocks of 64 pages
//! (`docs/decisions/020-blocks-of-pages.md`), with a tenth of noise on each block's time.

use super::super::*;
use crate::units::PAGE_BYTES;

/// Bytes of a full block.
const BLOCK_BYTES: u64 = 64 * PAGE_BYTES as u64;

/// Time to read a byte, look for zeros and add it to a checksum, and to send one.
const READ_NS: f64 = 0.1;
const SEND_NS: f64 = 0.12;

/// Bytes that a worker's socket buffers, where a test does not say.
const SOCKET_BYTES: f64 = 1e6;

/// Time between samples, and before the first one.
const SAMPLE_S: f64 = 0.05;
const FIRST_SAMPLE_S: f64 = 0.005;

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
    pub(super) fn class(self) -> BlockClass {
        // A block whose bytes have as many values, evenly spread.
        let values = match self {
            Self::Text => 20,
            Self::Code => 40,
            Self::Heap => 6,
            Self::Random => return BlockClass::RANDOM,
        };
        let bytes: Vec<u8> = (0..PAGE_BYTES).map(|at| (at * 7 % values) as u8).collect();
        BlockClass::of(&bytes)
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
pub(super) fn fixed_codecs() -> Vec<Codec> {
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
    /// Bytes that the socket of a channel buffers.
    pub(super) socket_bytes: f64,
}

impl Link {
    pub(super) fn steady(rate: f64) -> Self {
        Self {
            rate,
            changes_at: f64::INFINITY,
            rate_after: rate,
            socket_bytes: SOCKET_BYTES,
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
    /// Times that the codec of a kind of blocks changed, of all channels.
    pub(super) changes: usize,
    /// Share of the blocks that were done when the link changed.
    pub(super) done_at_change: f64,
}

/// What a channel does, and until when.
#[derive(Clone, Copy)]
enum State {
    /// Packs a block of so many bytes on the wire, and then writes it.
    Works { wire: f64, ready: f64 },
    /// Waits for room in its socket since then.
    Waits { since: f64 },
    /// There are no blocks left.
    Rests,
}

struct Channel {
    policy: Box<dyn CodecPolicy>,
    state: State,
    /// Bytes in its socket.
    queued: f64,
    /// What it did since the last sample.
    cpu: f64,
    waited: f64,
    carried: f64,
    /// The codec of each kind of block.
    last: [Option<Codec>; 4],
}

pub(super) fn simulate(
    setting: CompressSetting,
    stream: &[Block],
    link: Link,
    channels: u16,
    limit: CpuLimit,
) -> Run {
    let processors = limit.processors(usize::from(channels));
    let mut sim = Sim {
        channels: (0..channels)
            .map(|_| Channel {
                policy: policy(setting, |_| true, channels, processors),
                state: State::Rests,
                queued: 0.0,
                cpu: 0.0,
                waited: 0.0,
                carried: 0.0,
                last: [None; 4],
            })
            .collect(),
        stream,
        next: 0,
        link,
        limit,
        classes: Kind::ALL.map(Kind::class),
        now: 0.0,
        sent: 0.0,
        sampled_at: 0.0,
        sample_s: FIRST_SAMPLE_S,
        noise: 1,
        run: Run::default(),
    };
    for channel in 0..sim.channels.len() {
        sim.take(channel);
    }
    while sim.step() {}
    sim.run.seconds = sim.now;
    sim.run
}

struct Sim<'a> {
    channels: Vec<Channel>,
    stream: &'a [Block],
    next: usize,
    link: Link,
    limit: CpuLimit,
    classes: [BlockClass; 4],
    now: f64,
    /// Bytes since the last sample.
    sent: f64,
    sampled_at: f64,
    sample_s: f64,
    noise: u64,
    run: Run,
}

impl Sim<'_> {
    /// Gives a channel the next block.
    fn take(&mut self, index: usize) {
        let channels = self.channels.len() as u16;
        let channel = &mut self.channels[index];
        let Some(block) = self.stream.get(self.next) else {
            channel.state = State::Rests;
            return;
        };
        self.next += 1;
        if self.now < self.link.changes_at {
            self.run.done_at_change += 1.0 / self.stream.len() as f64;
        }
        let input = block.input();
        let class = self.classes[block.kind as usize];
        let (mut packing, mut wire) = (0.0, 0.0);
        if input > 0 {
            self.noise = self
                .noise
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(1);
            let factor = 0.9 + 0.2 * ((self.noise >> 33) as f64 / (1u64 << 31) as f64);
            let pack = |codec| {
                let (seconds, bytes) = block.packed(codec);
                Packed {
                    input_bytes: input,
                    wire_bytes: bytes as u64,
                    encode: Duration::from_secs_f64(seconds * factor),
                }
            };
            let choice = channel.policy.choose(class, input as usize);
            let tried = choice.trial().map(pack);
            let packed = pack(choice.codec());
            channel.policy.packed(choice, packed, tried);
            wire = packed.wire_bytes as f64;
            packing =
                (packed.encode + tried.map_or(Duration::ZERO, |tried| tried.encode)).as_secs_f64();
            self.run.raw_blocks += usize::from(choice.codec() == Codec::Raw);
            let last = channel.last[block.kind as usize].replace(choice.codec());
            self.run.changes += usize::from(last.is_some_and(|last| last != choice.codec()));
        }
        // Runs and headers.
        wire += 44.0 + 20.0 * (64 - block.kept) as f64;
        let busy = packing + (BLOCK_BYTES as f64 * READ_NS + wire * SEND_NS) * 1e-9;
        channel.cpu += busy;
        self.run.cpu_seconds += busy;
        let pause = self.limit.pause(Duration::from_secs_f64(busy), channels);
        channel.state = State::Works {
            wire,
            ready: self.now + busy + pause.as_secs_f64(),
        };
    }

    /// Goes on to the next moment at which something happens.
    fn step(&mut self) -> bool {
        let senders = self.channels.iter().filter(|c| c.queued > 0.0).count();
        // Connections share the link evenly.
        let share = self.link.rate_at(self.now) / senders.max(1) as f64;
        let mut until = f64::INFINITY;
        if self.now < self.link.changes_at {
            until = self.link.changes_at;
        }
        for channel in &self.channels {
            if channel.queued > 0.0 {
                until = until.min(self.now + channel.queued / share);
            }
            match channel.state {
                State::Works { ready, .. } => until = until.min(ready),
                State::Waits { .. } => {
                    let over = (channel.queued - self.link.socket_bytes).max(0.0);
                    until = until.min(self.now + over / share);
                }
                State::Rests => {}
            }
        }
        let rest = |channel: &Channel| matches!(channel.state, State::Rests);
        if senders == 0 && self.channels.iter().all(rest) {
            return false;
        }
        let time = (until - self.now).max(0.0);
        let carried = time * share;
        self.now = until;
        for channel in &mut self.channels {
            // Less than a byte is a matter of rounding.
            let left = channel.queued - carried;
            let left = if left < 1.0 { 0.0 } else { left };
            channel.carried += if channel.queued > 0.0 { time } else { 0.0 };
            channel.queued = left;
        }
        for index in 0..self.channels.len() {
            self.advance(index);
        }
        self.sample();
        true
    }

    fn advance(&mut self, index: usize) {
        let channel = &mut self.channels[index];
        if let State::Works { wire, ready } = channel.state
            && ready <= self.now
        {
            channel.queued += wire;
            self.sent += wire;
            channel.state = State::Waits { since: ready };
        }
        if let State::Waits { since } = channel.state
            && channel.queued <= self.link.socket_bytes + 1.0
        {
            channel.waited += (self.now - since).max(0.0);
            self.take(index);
        }
    }

    /// Frames that are not written yet are in the next sample, as in the pipeline.
    fn sample(&mut self) {
        let elapsed = self.now - self.sampled_at;
        if elapsed < self.sample_s {
            return;
        }
        for channel in &mut self.channels {
            channel.policy.observe(SendSample {
                elapsed: Duration::from_secs_f64(elapsed),
                cpu: Duration::from_secs_f64(std::mem::take(&mut channel.cpu)),
                waited: Duration::from_secs_f64(std::mem::take(&mut channel.waited).min(elapsed)),
                carried: Some(std::mem::take(&mut channel.carried) / elapsed),
                sent: ByteCount(self.sent as u64),
                ..SendSample::default()
            });
        }
        (self.sent, self.sampled_at) = (0.0, self.now);
        self.sample_s = (self.sample_s * 2.0).min(SAMPLE_S);
    }
}
