//! Packs blocks with the codec that the policy chooses, and reports what came of it.

use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::codec::block::{BlockEncoder, MAX_BLOCK_PAGES};
use crate::codec::select::{BlockClass, CodecPolicy, CpuLimit, Packed, SendSample, policy};
use crate::codec::{BlockFormat, Codec, CompressSetting};
use crate::pipeline::clock::Clock;
use crate::units::PAGE_BYTES;
use crate::wire::{Encoding, Encodings};

/// What it costs to keep a page: a copy to memory that the kernel has yet to provide.
const KEEPING: Duration = Duration::from_micros(1);

/// How many times more the sending must cost: most pages never come again.
const DEAR: u32 = 16;

/// Chooses and packs for one channel.
#[derive(Debug)]
pub(in super::super) struct Packer {
    policy: Box<dyn CodecPolicy>,
    /// Channels that share the link.
    workers: u16,
    /// What packs; `None` if all pages go raw.
    encoder: Option<BlockEncoder>,
    /// One packed block.
    packed: Box<[u8]>,
}

impl Packer {
    /// A packer for one of `workers` channels, for a target that reads the encodings `reads`.
    pub(in super::super) fn new(
        setting: CompressSetting,
        workers: u16,
        limit: CpuLimit,
        reads: Encodings,
    ) -> Self {
        let readable = |codec: Codec| {
            codec.format().is_none_or(|format| {
                reads.contains(format.into()) && reads.contains(Encoding::More)
            })
        };
        let processors = available_parallelism().map_or(1, NonZero::get);
        let policy = policy(setting, readable, workers, limit.processors(processors));
        let codecs = policy.candidates();
        let packs = codecs.iter().any(|codec| *codec != Codec::Raw);
        let room = if packs {
            MAX_BLOCK_PAGES * PAGE_BYTES
        } else {
            0
        };
        Self {
            encoder: packs.then(|| BlockEncoder::new(codecs)),
            policy,
            workers,
            packed: vec![0; room].into(),
        }
    }

    /// Whether any block may be packed.
    pub(super) fn packs(&self) -> bool {
        self.encoder.is_some()
    }

    /// Whether to keep a page for later costs less than to send it whole once more. Where no link is
    /// measured somebody has wanted deltas at any price.
    pub(super) fn page_is_dear(&self) -> bool {
        let page = PAGE_BYTES as f64 * f64::from(self.workers);
        let dear = (KEEPING * DEAR).as_secs_f64();
        let rate = self.policy.link_rate();
        rate.is_none_or(|rate| page >= rate.0 as f64 * dear)
    }

    /// Packs a block of whole pages; `None` if they are to go raw.
    pub(super) fn pack(&mut self, pages: &[u8], clock: &dyn Clock) -> Option<(BlockFormat, &[u8])> {
        let encoder = self.encoder.as_mut()?;
        let class = match self.policy.candidates() {
            // There is nothing to choose, and no need to look.
            [_] => BlockClass::default(),
            _ => BlockClass::of(pages),
        };
        let choice = self.policy.choose(class, pages.len());
        let input_bytes = pages.len() as u64;
        let mut pack = |codec| {
            if codec == Codec::Raw {
                // Nothing to measure: two looks at the processor's clock are 0.5 us.
                return (None, Duration::ZERO);
            }
            let begun = clock.thread_cpu();
            let packed = encoder.encode(codec, pages, &mut self.packed);
            let took = clock.thread_cpu().saturating_sub(begun);
            (packed, took)
        };
        let outcome = |(packed, encode): (Option<usize>, Duration)| Packed {
            input_bytes,
            wire_bytes: packed.map_or(input_bytes, |length| length as u64),
            encode,
        };
        // First, so that what is to be sent is what remains.
        let tried = choice.trial().map(|trial| outcome(pack(trial)));
        let codec = choice.codec();
        let packed = pack(codec);
        self.policy.packed(choice, outcome(packed), tried);
        Some((codec.format()?, &self.packed[..packed.0?]))
    }

    /// Some time has passed.
    pub(in super::super) fn observe(&mut self, sample: SendSample) {
        self.policy.observe(sample);
    }
}
