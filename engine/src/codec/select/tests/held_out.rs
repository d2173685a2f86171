//! The model, given what fixed codecs took over links, and on a machine, that it was not fitted to.
//!
//! Mixed content, source and target on the same two processors (Zen 5): what the measured moves
//! took is what the model's samples say, for whatever codec it chooses.

use super::super::throughput::ThroughputModel;
use super::*;

const PROCESSORS: f64 = 2.0;
const CHANNELS: u16 = 2;
const BLOCK_BYTES: u64 = 64 * PAGE_BYTES as u64;

/// Share of the memory that is not zero.
const FILLED: f64 = 0.93;

/// Share of a move's processor time that the target takes, and bytes on the wire for a byte of
/// pages: of raw, LZ4, and levels 1 and 3 of zstd.
const TARGET_SHARE: [f64; 4] = [0.62, 0.35, 0.36, 0.27];
const WIRE: [f64; 4] = [1.0, 0.557, 0.482, 0.468];

/// A link, and the seconds and CPU seconds of both ends by codec.
struct Row {
    bytes_per_s: f64,
    memory_mib: f64,
    moves: [(f64, f64); 4],
}

const ROWS: [Row; 5] = [
    Row {
        bytes_per_s: 6.25e6,
        memory_mib: 64.0,
        moves: [(10.41, 0.24), (5.80, 0.26), (5.02, 0.37), (4.87, 0.42)],
    },
    Row {
        bytes_per_s: 50e6,
        memory_mib: 512.0,
        moves: [(10.43, 0.94), (5.82, 1.50), (5.03, 2.07), (4.88, 2.58)],
    },
    Row {
        bytes_per_s: 75e6,
        memory_mib: 512.0,
        moves: [(6.95, 0.62), (3.88, 1.51), (3.35, 2.32), (3.25, 2.60)],
    },
    Row {
        bytes_per_s: 312.5e6,
        memory_mib: 2048.0,
        moves: [(6.82, 2.86), (3.88, 6.52), (4.55, 8.68), (7.79, 11.7)],
    },
    Row {
        bytes_per_s: 625e6,
        memory_mib: 2048.0,
        moves: [(3.39, 3.29), (2.88, 5.61), (4.20, 8.19), (9.45, 10.9)],
    },
];

fn codecs() -> Vec<Codec> {
    let zstd = [1, 3].map(|level| Codec::Zstd(ZstdLevel::new(level).unwrap()));
    [Codec::Raw, Codec::Lz4].into_iter().chain(zstd).collect()
}

impl Row {
    fn bytes(&self) -> f64 {
        self.memory_mib * 1048576.0 * FILLED
    }

    /// Nanoseconds of the source's processor time for a byte of pages.
    fn source_ns(&self, codec: usize) -> f64 {
        self.moves[codec].1 * (1.0 - TARGET_SHARE[codec]) * 1e9 / self.bytes()
    }

    /// Of those, what packing takes: what the source takes more than for as many raw bytes.
    fn encode_ns(&self, codec: usize) -> f64 {
        let others = self.source_ns(0) * (0.4 + 0.6 * WIRE[codec]);
        (self.source_ns(codec) - others).max(0.0)
    }

    /// What a codec makes of a block.
    fn packed(&self, codec: usize) -> Packed {
        Packed {
            input_bytes: BLOCK_BYTES,
            wire_bytes: (BLOCK_BYTES as f64 * WIRE[codec]) as u64,
            encode: Duration::from_secs_f64(BLOCK_BYTES as f64 * self.encode_ns(codec) * 1e-9),
        }
    }

    /// What one of the channels finds while it sends so many blocks with a codec.
    fn sample(&self, codec: usize, blocks: u64) -> SendSample {
        let bytes = (blocks * BLOCK_BYTES) as f64;
        let (seconds, cpu) = self.moves[codec];
        let elapsed = seconds / self.bytes() * bytes * f64::from(CHANNELS);
        let busy = bytes * self.source_ns(codec) * 1e-9;
        let used = (cpu / seconds / PROCESSORS).min(1.0);
        // The more the processors are used, the longer source and target are without one.
        let delayed = (elapsed - busy).max(0.0) * used.powi(4) * 0.5;
        let target = cpu * TARGET_SHARE[codec] / seconds / f64::from(CHANNELS);
        let carried = bytes * WIRE[codec] * f64::from(CHANNELS) / self.bytes_per_s / elapsed;
        let time = Duration::from_secs_f64;
        SendSample {
            elapsed: time(elapsed),
            cpu: time(busy),
            delayed: time(delayed),
            waited: time((elapsed - busy - delayed).max(0.0)),
            idle: Some(PROCESSORS * (1.0 - used)),
            carried: Some(carried.min(1.0)),
            cap: None,
            sent: ByteCount((bytes * WIRE[codec]) as u64 * u64::from(CHANNELS)),
            target_busy: Some(target + (1.0 - target) * used.powi(4) * 0.5),
        }
    }

    /// Seconds that the memory takes with the codecs that the model chooses once it has had ten
    /// seconds to measure.
    fn with_the_model(&self) -> f64 {
        let codecs = codecs();
        let mut model = ThroughputModel::new(codecs.clone(), CHANNELS, PROCESSORS);
        let index = |codec| codecs.iter().position(|known| *known == codec).unwrap();
        let (mut now, mut measured, mut seconds, mut bytes) = (0.0, 0, 0.0, 0.0);
        while measured < 400 {
            // Blocks that a channel sends in 50 ms.
            let fastest = self.moves.iter().map(|(seconds, _)| *seconds);
            let rate = self.bytes() / fastest.fold(f64::INFINITY, f64::min) / f64::from(CHANNELS);
            let blocks = ((rate * 0.05) as u64).div_ceil(BLOCK_BYTES);
            let mut used = 0;
            for _ in 0..blocks {
                let choice = model.choose(Kind::Code.class(), BLOCK_BYTES as usize);
                used = index(choice.codec());
                let tried = choice.trial().map(|trial| self.packed(index(trial)));
                model.packed(choice, self.packed(used), tried);
            }
            let sample = self.sample(used, blocks);
            model.observe(sample);
            now += sample.elapsed.as_secs_f64();
            if now > 10.0 {
                measured += 1;
                seconds += sample.elapsed.as_secs_f64();
                bytes += (blocks * BLOCK_BYTES) as f64 * f64::from(CHANNELS);
            }
        }
        seconds / bytes * self.bytes()
    }
}

#[test]
fn it_takes_the_best_fixed_codec_of_every_row() {
    for row in &ROWS {
        let best = row.moves.iter().map(|(seconds, _)| *seconds);
        let best = best.fold(f64::INFINITY, f64::min);
        let model = row.with_the_model();
        eprintln!(
            "{:.0} Mbit/s: {model:.2} s, best fixed {best:.2} s",
            row.bytes_per_s * 8e-6
        );
        assert!(model <= best * 1.04, "{model} s, {best} s");
    }
}
