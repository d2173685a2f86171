//! Packs blocks with the codec that the setting, or the chooser, says, and tells the chooser
//! what came of it.

use std::time::Duration;

use crate::codec::block::{BlockEncoder, MAX_BLOCK_PAGES};
use crate::codec::choose::{Choice, Chooser, CpuLimit, LinkConditions, Outcome, Tried};
use crate::codec::{BlockFormat, Codec, CompressSetting};
use crate::pipeline::clock::Clock;
use crate::transport::SendQueue;
use crate::units::{Instant, PAGE_BYTES};
use crate::wire::{Encoding, Encodings, MAX_FRAME_PAGES};

/// What it costs to keep a page: a copy to memory that the kernel has yet to provide.
const KEEPING: Duration = Duration::from_micros(1);

/// How many times more the sending must cost: most pages never come again.
const DEAR: u32 = 16;

/// Most blocks of a frame: the last one need not be full.
const MAX_BLOCKS: usize = MAX_FRAME_PAGES / MAX_BLOCK_PAGES + 1;

/// Most blocks whose sending the chooser is told of together.
const MOST_UNTOLD: usize = 8 * MAX_BLOCKS;

/// Chooses and packs for one channel.
#[derive(Debug)]
pub(in super::super) struct Packer {
    chooser: Chooser,
    /// What packs; `None` if all pages go raw.
    encoder: Option<BlockEncoder>,
    /// One packed block.
    packed: Box<[u8]>,
    /// The blocks that the chooser has not been told of.
    blocks: Vec<Packed>,
}

/// A block that the chooser has not been told of.
#[derive(Clone, Copy, Debug)]
struct Packed {
    choice: Choice,
    input_bytes: u64,
    wire_bytes: u64,
    encode: Duration,
    tried: Option<Tried>,
}

impl Packed {
    /// Processor time of all packing.
    fn packing(&self) -> Duration {
        self.encode + self.tried.map_or(Duration::ZERO, |tried| tried.encode)
    }
}

/// How some frames were sent, one after the other. Times are those of the channel's thread.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Sending {
    /// Processor time before the sending: reading and encoding.
    pub(in super::super) encode_cpu: Duration,
    /// Processor time of the sending.
    pub(in super::super) send_cpu: Duration,
    /// What the sending took beyond that.
    pub(in super::super) waited: Duration,
    /// Time without a processor, from the reading on.
    pub(in super::super) delayed: Duration,
    /// Processor time of frames without blocks, between these.
    pub(in super::super) besides: Duration,
    /// The queue of the connection when the last one was written.
    pub(in super::super) queue: Option<SendQueue>,
    /// When it was done.
    pub(in super::super) done: Instant,
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
        let chooser = Chooser::among(setting, readable, workers, limit);
        let packs = chooser.codecs().iter().any(|codec| *codec != Codec::Raw);
        let room = if packs {
            MAX_BLOCK_PAGES * PAGE_BYTES
        } else {
            0
        };
        Self {
            encoder: packs.then(|| BlockEncoder::new(chooser.codecs())),
            chooser,
            packed: vec![0; room].into(),
            blocks: Vec::with_capacity(MOST_UNTOLD),
        }
    }

    /// Whether any block may be packed.
    pub(super) fn packs(&self) -> bool {
        self.encoder.is_some()
    }

    /// Whether there is a choice, which measurements help.
    pub(in super::super) fn chooses(&self) -> bool {
        self.chooser.codecs().len() > 1
    }

    /// Whether to keep a page for later costs less than to send it whole once more. Without a
    /// choice somebody has wanted deltas at any price.
    pub(super) fn page_is_dear(&self) -> bool {
        !self.chooses() || self.chooser.wire_time(PAGE_BYTES) >= KEEPING * DEAR
    }

    /// Whether another frame needs that the chooser is told of those before it.
    pub(in super::super) fn must_tell(&self) -> bool {
        self.blocks.len() + MAX_BLOCKS > MOST_UNTOLD
    }

    /// Packs a block of whole pages; `None` if they are to go raw.
    pub(super) fn pack(&mut self, pages: &[u8], clock: &dyn Clock) -> Option<(BlockFormat, &[u8])> {
        let chooses = self.chooses();
        let encoder = self.encoder.as_mut()?;
        let choice = self.chooser.choose(pages);
        let codec = choice.codec();
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
        let bytes = |packed: Option<usize>| packed.map_or(input_bytes, |length| length as u64);
        // First, so that what is to be sent is what remains.
        let tried = choice.trial().map(|trial| {
            let (packed, encode) = pack(trial);
            Tried {
                encode,
                wire_bytes: bytes(packed),
            }
        });
        let (packed, encode) = pack(codec);
        if chooses {
            self.blocks.push(Packed {
                choice,
                input_bytes,
                wire_bytes: bytes(packed),
                encode,
                tried,
            });
        }
        Some((codec.format()?, &self.packed[..packed?]))
    }

    /// Frames are sent: their blocks share what that took, by their size. Frames without any, of
    /// zeros alone, say nothing of the link or of codecs.
    pub(in super::super) fn sent(&mut self, sending: &Sending) {
        let inputs: u64 = self.blocks.iter().map(|block| block.input_bytes).sum();
        let encode: Duration = self.blocks.iter().map(Packed::packing).sum();
        let read = sending.encode_cpu.saturating_sub(encode);
        for block in self.blocks.drain(..) {
            let share = block.input_bytes as f64 / inputs as f64;
            let outcome = Outcome {
                input_bytes: block.input_bytes,
                wire_bytes: block.wire_bytes,
                read: read.mul_f64(share),
                encode: block.encode,
                tried: block.tried,
                send: sending.send_cpu.mul_f64(share),
                waited: sending.waited.mul_f64(share),
                delayed: sending.delayed.mul_f64(share),
                besides: sending.besides.mul_f64(share),
                unsent_bytes: sending.queue.map(|queue| queue.queued_bytes),
                buffer_bytes: sending.queue.map(|queue| queue.capacity_bytes),
                done: sending.done,
            };
            self.chooser.record(block.choice, outcome);
        }
    }

    /// Takes in how the link does.
    pub(in super::super) fn observe(&mut self, now: Instant, link: LinkConditions) {
        self.chooser.observe(now, link);
    }
}
