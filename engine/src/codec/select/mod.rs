//! Chooses the codec that packs each block of pages.
//!
//! A [`CodecPolicy`] says for each block what to pack it with. It learns what packing came to, block
//! by block, and how the channel's thread, the link and the target spent their time, some twenty
//! times a second ([`SendSample`]). Each channel has a policy of its own, so that nothing is shared
//! or locked. A policy is pure: times are arguments, and the same calls give the same choices.
//!
//! | policy | for |
//! |---|---|
//! | `Fixed` | a codec that is asked for by name |
//! | `ThroughputModel` | `auto`: the codec that moves the memory soonest |

mod class;
mod limit;
mod link;
mod measured;
mod priors;
mod thread_time;
mod throughput;

pub use class::BlockClass;
pub use limit::{CpuLimit, ParseCpuLimitError};

use std::fmt;
use std::time::Duration;

use super::setting::{Codec, CompressSetting, ZstdLevel};
use crate::units::{ByteCount, Rate};
use throughput::ThroughputModel;

/// Levels of zstd that `auto` uses. With raw and LZ4 they are the ones that no other codec beats
/// in both speed and ratio, as far as they differ (`docs/decisions/020-blocks-of-pages.md`);
/// higher ones save at most 4 % of mixed content, at an eighth of the speed or less.
const AUTO_LEVELS: [i32; 5] = [-50, -20, 1, 3, 7];

/// Share of its time that a target's channel waits from which on it does not limit the source.
const TARGET_WAITS: f64 = 0.2;

/// Chooses the codec of each block that one channel sends.
pub trait CodecPolicy: fmt::Debug + Send {
    /// Every codec that it may choose, at least one.
    fn candidates(&self) -> &[Codec];

    /// The codec for a block of `bytes` bytes of pages of this class.
    fn choose(&mut self, class: BlockClass, bytes: usize) -> Choice;

    /// Takes in what came of a choice: what its codec made of the block, and what the codec of its
    /// trial did, if it has one.
    fn packed(&mut self, choice: Choice, packed: Packed, tried: Option<Packed>);

    /// Takes in how the channel did since the last time.
    fn observe(&mut self, sample: SendSample);

    /// What the link is thought to carry, over all channels; `None` if the policy does not ask.
    fn link_rate(&self) -> Option<Rate>;
}

/// One of a policy's codecs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    index: usize,
    codec: Codec,
}

/// The choice for one block, to be given back with what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    class: BlockClass,
    chosen: Candidate,
    trial: Option<Candidate>,
}

impl Choice {
    /// What to pack the block with.
    pub fn codec(&self) -> Codec {
        self.chosen.codec
    }

    /// What to pack the block with as well, to see what it comes to; the result is not to be
    /// sent.
    pub fn trial(&self) -> Option<Codec> {
        self.trial.map(|trial| trial.codec)
    }
}

/// What a codec made of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of its pages, above 0.
    pub input_bytes: u64,
    /// Bytes on the wire: `input_bytes` if it goes raw.
    pub wire_bytes: u64,
    /// Processor time of packing, or of the attempt.
    pub encode: Duration,
}

impl Packed {
    /// Nanoseconds for a byte of pages.
    fn encode_ns(&self) -> f64 {
        self.encode.as_secs_f64() * 1e9 / self.input_bytes as f64
    }

    /// Share of the bytes that is not sent.
    fn saving(&self) -> f64 {
        1.0 - self.wire_bytes as f64 / self.input_bytes as f64
    }
}

/// How a channel's thread, the link and the target did since the last sample, while there were
/// pages to send.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SendSample {
    /// Time that passed.
    pub elapsed: Duration,
    /// Processor time of the thread in it.
    pub cpu: Duration,
    /// Time in which the thread was ready to run and others had the processor.
    pub delayed: Duration,
    /// Time in which it waited for its connection.
    pub waited: Duration,
    /// Processors of this machine that nobody used, on average; `None` if unknown.
    pub idle: Option<f64>,
    /// Share, 0 to 1, of the time in which the channel's connection carried something; `None` if it
    /// cannot tell.
    pub carried: Option<f64>,
    /// The most that all channels may send together, if there is such a limit.
    pub cap: Option<Rate>,
    /// Bytes of frames that all channels have written.
    pub sent: ByteCount,
    /// Share, 0 to 1, of its time that the target's thread of this channel was busy; `None` if it
    /// does not say.
    pub target_busy: Option<f64>,
}

impl SendSample {
    /// Share of the time in which the channel waited for the link and for nothing else. Where the
    /// machine is `crowded`, source and target may wait for each other to get a processor: only the
    /// time in which both wait is certainly the link's.
    fn link_waits(&self, crowded: bool) -> f64 {
        let waited = self.waited.div_duration_f64(self.elapsed);
        if crowded {
            (waited - self.target_busy.unwrap_or(0.0)).max(0.0)
        } else {
            waited * (1.0 - self.target_limited())
        }
    }

    /// How far the waiting is the target's doing and not the link's, 0 to 1: it has no time for
    /// more, and packing would take more of it.
    pub fn target_limited(&self) -> f64 {
        let waits = 1.0 - self.target_busy.unwrap_or(0.0);
        1.0 - (waits / TARGET_WAITS).min(1.0)
    }
}

/// The same codec for every block.
#[derive(Clone, Copy, Debug)]
struct Fixed([Codec; 1]);

impl CodecPolicy for Fixed {
    fn candidates(&self) -> &[Codec] {
        &self.0
    }

    fn choose(&mut self, class: BlockClass, _bytes: usize) -> Choice {
        Choice {
            class,
            chosen: Candidate {
                index: 0,
                codec: self.0[0],
            },
            trial: None,
        }
    }

    fn packed(&mut self, _: Choice, _: Packed, _: Option<Packed>) {}

    fn observe(&mut self, _: SendSample) {}

    fn link_rate(&self) -> Option<Rate> {
        None
    }
}

/// The policy for what the user says, of one of `channels` channels that share the link and so many
/// `processors` (see [`CpuLimit::processors`]). Only codecs that are `readable` for the target are
/// used; raw if there is none.
///
/// # Panics
/// If there are no workers.
pub fn policy(
    setting: CompressSetting,
    readable: impl Fn(Codec) -> bool,
    channels: u16,
    processors: f64,
) -> Box<dyn CodecPolicy> {
    assert!(channels > 0, "a policy belongs to a channel");
    let mut codecs = candidates(setting);
    codecs.retain(|codec| readable(*codec));
    match codecs[..] {
        [] => Box::new(Fixed([Codec::Raw])),
        [codec] => Box::new(Fixed([codec])),
        _ => Box::new(ThroughputModel::new(codecs, channels, processors)),
    }
}

/// Every codec that blocks may be packed with, if the target reads all of them.
pub fn candidates(setting: CompressSetting) -> Vec<Codec> {
    match setting {
        CompressSetting::Fixed(codec) => vec![codec],
        CompressSetting::Xbzrle => vec![Codec::Raw],
        CompressSetting::Auto => {
            // Without zstd there are no levels.
            let zstd = AUTO_LEVELS
                .iter()
                .filter_map(|level| ZstdLevel::new(*level).ok())
                .map(Codec::Zstd);
            [Codec::Raw, Codec::Lz4].into_iter().chain(zstd).collect()
        }
    }
}

#[cfg(test)]
mod tests;
