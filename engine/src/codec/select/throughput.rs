//! Chooses the codec that moves pages soonest, by a model of the pipeline.
//!
//! A byte of pages takes time of the link, of the source's threads and of the target's. The three
//! work at once, so that the stream goes as fast as the slowest of them:
//!
//! ```text
//!     throughput  =  min( link rate / wire bytes,  source / its CPU time,  target / its CPU time )
//! ```
//!
//! where wire bytes and CPU times are those of a byte of pages of the present mix of classes. Each
//! codec is judged as if it packed every class of blocks of which it saves something, while the
//! others go raw. The codec with the highest throughput packs until another one is clearly better.
//! All figures start from [priors](super::priors) and are measured while pages are sent.
//!
//! Now and then a block is packed with a second codec as well, a *trial*, for at most 0.5 % of the
//! time, if that codec may win: codecs are compared on the same content alone, and those that are
//! not used are not forgotten.

use super::class::BlockClass;
use super::link::LinkRate;
use super::measured::Measured;
use super::thread_time::{SourceTime, TargetTime, Work};
use super::{Candidate, Choice, CodecPolicy, Packed, SendSample};
use crate::codec::Codec;
use crate::units::Rate;

/// How far the three work at once. The buffers between them hold a few blocks, so that the whole
/// takes longer than the slowest: by a fifth where two are equally slow. The time is the root of this
/// power of the sum of their powers.
const POWER: i32 = 4;

/// A codec that takes twice the CPU time of another, of both ends, must save 3 % of the time: this
/// is the binary logarithm of 1.03.
pub(super) const CPU_POWER: f64 = 0.043;

/// Another codec must be better by this share.
const HYSTERESIS: f64 = 0.02;

/// A class of which a codec saves less than this share goes raw.
const LEAST_SAVING: f64 = 0.04;

/// Bytes of blocks over which the mix of classes is averaged.
const MIX_BYTES: f64 = 32e6;

/// Share of the time that may go into trials.
const TRIAL_SHARE: f64 = 0.005;

/// Blocks of a class after which a codec is worth a trial.
const STALE_BLOCKS: u32 = 256;

/// A codec may win if it is not thought to take this many times as long as the best.
const MAY_WIN: f64 = 1.5;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct ThroughputModel {
    candidates: Vec<Codec>,
    /// What each candidate is thought to take, in nanoseconds for a byte of pages.
    costs: Vec<f64>,
    /// The one that packs.
    best: usize,
    measured: Measured,
    link: LinkRate,
    source: SourceTime,
    target: TargetTime,
    /// Share of each class in the bytes of blocks.
    mix: [f64; BlockClass::COUNT],
    /// Time that trials may still take, in nanoseconds.
    trial_credit_ns: f64,
    /// Of blocks, since the last sample: their bytes, those on the wire, and time of packing.
    input: f64,
    wire: f64,
    encode_ns: f64,
}

impl ThroughputModel {
    /// The model of one of `channels` channels, which together may use so many `processors` of the
    /// source. The first of the candidates is raw.
    pub(super) fn new(candidates: Vec<Codec>, channels: u16, processors: f64) -> Self {
        let mut model = Self {
            costs: vec![f64::INFINITY; candidates.len()],
            best: 0,
            measured: Measured::new(&candidates),
            candidates,
            link: LinkRate::new(channels),
            source: SourceTime::new(channels, processors),
            target: TargetTime::new(channels),
            mix: [1.0 / BlockClass::COUNT as f64; BlockClass::COUNT],
            trial_credit_ns: 0.0,
            input: 0.0,
            wire: 0.0,
            encode_ns: 0.0,
        };
        model.judge();
        model
    }

    /// Judges all codecs, and takes the best if it is better than the present one.
    fn judge(&mut self) {
        let mut best = self.best;
        for codec in 0..self.candidates.len() {
            self.costs[codec] = self.cost(codec);
            if self.costs[codec] < self.costs[best] {
                best = codec;
            }
        }
        if self.costs[best] < self.costs[self.best] * (1.0 - HYSTERESIS) {
            self.best = best;
        }
    }

    /// Time for a byte of pages, and a little for the CPU time in it.
    fn cost(&self, codec: usize) -> f64 {
        let work = self.work(codec);
        let times = [
            work.wire * 1e9 / self.link.bytes_per_s(),
            self.source.time_ns(work),
            self.target.time_ns(work),
        ];
        let sum: f64 = times.iter().map(|time| time.powi(POWER)).sum();
        let cpu_ns = self.source.cpu_ns(work) + self.target.cpu_ns(work);
        sum.powf(1.0 / f64::from(POWER)) * cpu_ns.powf(CPU_POWER)
    }

    /// What a byte of the present mix takes where this codec packs.
    fn work(&self, codec: usize) -> Work {
        let mut work = Work::default();
        for class in BlockClass::all() {
            let share = self.mix[class.index()];
            let figures = self.measured.figures(self.used(codec, class), class);
            work.encode_ns += share * figures.encode_ns;
            work.decode_ns += share * figures.decode_ns;
            work.wire += share * figures.wire;
        }
        work
    }

    /// The codec that blocks of this class take where `codec` packs: raw if it saves nothing of them.
    fn used(&self, codec: usize, class: BlockClass) -> usize {
        let figures = self.measured.figures(codec, class);
        if figures.saving() >= LEAST_SAVING {
            codec
        } else {
            0
        }
    }

    /// The codec that is worth a trial on a block of so many bytes that goes by `used`: of those
    /// that may win, the one that was used longest ago.
    fn trial(&self, class: BlockClass, used: usize, bytes: f64) -> Option<usize> {
        let most = self.costs[self.best] * MAY_WIN;
        (1..self.candidates.len())
            .filter(|codec| {
                *codec != used
                    && self.costs[*codec] <= most
                    && self.measured.age(*codec, class) >= STALE_BLOCKS
                    && self.measured.figures(*codec, class).encode_ns * bytes
                        <= self.trial_credit_ns
            })
            .max_by_key(|codec| self.measured.age(*codec, class))
    }

    fn candidate(&self, index: usize) -> Candidate {
        Candidate {
            index,
            codec: self.candidates[index],
        }
    }
}

impl CodecPolicy for ThroughputModel {
    fn candidates(&self) -> &[Codec] {
        &self.candidates
    }

    fn choose(&mut self, class: BlockClass, bytes: usize) -> Choice {
        self.measured.count(class);
        let used = self.used(self.best, class);
        let trial = self.trial(class, used, bytes as f64);
        Choice {
            class,
            chosen: self.candidate(used),
            trial: trial.map(|trial| self.candidate(trial)),
        }
    }

    fn packed(&mut self, choice: Choice, packed: Packed, tried: Option<Packed>) {
        let (class, chosen) = (choice.class, choice.chosen.index);
        let bytes = packed.input_bytes as f64;
        for mixed in BlockClass::all() {
            let share = f64::from(u8::from(mixed == class));
            let mean = &mut self.mix[mixed.index()];
            *mean += (share - *mean) * (bytes / MIX_BYTES).min(1.0);
        }
        self.input += bytes;
        self.wire += packed.wire_bytes as f64;
        self.encode_ns += packed.encode_ns() * bytes;
        if choice.chosen.codec != Codec::Raw {
            self.measured.packed(chosen, class, packed);
        }
        if let Some((trial, tried)) = choice.trial.zip(tried) {
            self.measured
                .tried((trial.index, tried), (chosen, packed), class);
            let encode_ns = tried.encode_ns() * bytes;
            self.encode_ns += encode_ns;
            self.trial_credit_ns -= encode_ns;
        }
    }

    fn observe(&mut self, sample: SendSample) {
        let (input, wire, encode_ns) = (
            std::mem::take(&mut self.input),
            std::mem::take(&mut self.wire),
            std::mem::take(&mut self.encode_ns),
        );
        if sample.elapsed.is_zero() {
            return;
        }
        self.trial_credit_ns += sample.elapsed.as_secs_f64() * 1e9 * TRIAL_SHARE;
        self.source.add(&sample, encode_ns, input, wire);
        let work = self.work(self.best);
        self.target.add(&sample, input, work);
        self.link.add(&sample, self.source.is_crowded());
        self.judge();
    }

    fn link_rate(&self) -> Option<Rate> {
        Some(Rate(self.link.bytes_per_s() as u64))
    }
}
