//! Which codec carries a block of pages: the one that lets the migration end soonest.
//!
//! A worker thread has two things to spend on a block: its own time, and the time its share of
//! the link takes for what comes out. Both go on at once, since sockets have buffers, so a
//! stream of blocks takes as long as the busier of the two. The least possible is reached when
//! each block takes the codec with the smallest
//!
//! ```text
//!     cpu time  +  price * bytes on the wire
//! ```
//!
//! at the one price at which both are equally busy: free while the processor is the
//! bottleneck, dear while the link is. (It is the dual of that linear program.) So an
//! incompressible block that loads the link makes the next block compress harder, which no
//! fixed codec and no rule for each block alone does.
//!
//! What a codec costs is measured as it is used, for each [class](ContentClass) of
//! content and for small and large blocks. Now and then a block is packed with a second codec as
//! well, for at most 1 % of the time spent: codecs are compared on the same content alone, and
//! those that are not used are not forgotten.
//!
//! Pure: times are arguments, and the same calls give the same choices. There is one chooser
//! for each worker thread, so nothing is shared or locked.
//!
//! Cost: less than 1 us a block, and 0.2 to 2 us for the sample of its content, as it is in the
//! caches or not; a raw block of 64 pages takes 60 us or more to read and send.

mod class;
mod cost;
mod guess;
mod limit;
mod price;
mod queue;
mod recent;

pub use class::ContentClass;
pub use limit::{CpuLimit, ParseCpuLimitError};

use super::setting::{Codec, CompressSetting, ZstdLevel};
use crate::units::{Instant, PAGE_BYTES, Rate};
use cost::CostTable;
use guess::{Cell, Estimate};
use price::Price;
use std::time::Duration;

/// Levels of zstd that `auto` uses. With raw and LZ4 they are the ones that no other codec beats
/// in both speed and ratio, as far as they differ (`docs/decisions/020-blocks-of-pages.md`);
/// higher ones save at most 4 % of mixed content, at an eighth of the speed or less.
const AUTO_LEVELS: [i32; 5] = [-50, -20, 1, 3, 7];

/// Most codecs that there can be to choose from.
const MOST_CODECS: usize = 2 + AUTO_LEVELS.len();

/// Share of the time that may go into trying codecs that are not thought to be best.
const TRIAL_SHARE: f64 = 0.01;

/// Blocks after which an estimate is worth a trial.
const STALE_BLOCKS: u32 = 256;

/// How many times as dear as the best codec one may seem that is worth a trial. On a fast link most
/// cost more than that, and their tables would take the place of pages in the processor's cache.
const MAY_WIN: f64 = 2.0;

/// The choice for one block, to be given back with what came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    codec: Codec,
    /// Place in the menu.
    index: usize,
    cell: Cell,
    /// Place in the menu of the codec to compare it with.
    trial: Option<(usize, Codec)>,
}

impl Choice {
    /// What to pack the block with.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// What to pack the block with as well, before that, to see what it comes to; the result
    /// is not to be sent.
    pub fn trial(&self) -> Option<Codec> {
        self.trial.map(|(_, codec)| codec)
    }
}

/// What came of a [trial](Choice::trial).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Packing, or the attempt.
    pub encode: Duration,
    /// Bytes that would have been sent.
    pub wire_bytes: u64,
}

/// What came of a block. Times are those of its thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes of its pages.
    pub input_bytes: u64,
    /// Bytes that were sent for them: `input_bytes` if it went raw.
    pub wire_bytes: u64,
    /// Reading the pages and looking for zeros.
    pub read: Duration,
    /// Packing, or the attempt.
    pub encode: Duration,
    /// The same of the trial, if there was one.
    pub tried: Option<Tried>,
    /// Checksum, and the processor's part of writing to the connection.
    pub send: Duration,
    /// The rest of writing: waiting for the connection to take it.
    pub waited: Duration,
    /// In all of this, being ready to work while others had the processor.
    pub delayed: Duration,
    /// Processor time, before this block, of frames that held none: of zeros alone.
    pub besides: Duration,
    /// Bytes of earlier blocks that the connection held when the writing began, and had not
    /// sent (`SIOCOUTQNSD`, see linux/sockios.h); `None` if it cannot tell.
    pub unsent_bytes: Option<u64>,
    /// The most it can hold; `None` if unknown.
    pub buffer_bytes: Option<u64>,
    /// When the writing was done.
    pub done: Instant,
}

/// What the migration sees of the link and the processors, every 50 ms or so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkConditions {
    /// The rate at which the target has placed what all channels send since the last observation, in
    /// bytes on the wire; `None` if it is unknown.
    pub placed: Option<Rate>,
    /// Share, 0 to 1, of the time in which this thread's connection had something to carry; `None` if
    /// it cannot tell.
    pub carrying: Option<f64>,
    /// The most that may be sent, if that is limited.
    pub cap: Option<Rate>,
    /// Share, 0 to 1, of the waiting for which the target is to blame: it has no time for more, and
    /// packing would take more of it. 0 if unknown.
    pub target_limited: f64,
    /// Share, 0 to 1, of this machine's processor time that nobody used, to a few per cent;
    /// `None` if unknown.
    pub idle: Option<f64>,
}

/// Chooses the codec of each block of one worker thread.
#[derive(Clone, Debug)]
pub struct Chooser {
    menu: Vec<Codec>,
    costs: CostTable,
    price: Price,
    /// Time that trials may still take, in nanoseconds.
    trial_credit_ns: f64,
}

impl Chooser {
    /// A chooser for one of `workers` threads that share the link.
    ///
    /// # Panics
    /// If there are no workers.
    pub fn new(setting: CompressSetting, workers: u16, limit: CpuLimit) -> Self {
        Self::among(setting, |_| true, workers, limit)
    }

    /// As [`new`](Self::new), with those codecs alone that are `readable` for the target; raw if
    /// there is none.
    ///
    /// # Panics
    /// If there are no workers.
    pub fn among(
        setting: CompressSetting,
        readable: impl Fn(Codec) -> bool,
        workers: u16,
        limit: CpuLimit,
    ) -> Self {
        assert!(workers > 0, "a chooser belongs to a worker");
        let mut menu = match setting {
            CompressSetting::Auto => auto_menu(),
            CompressSetting::Fixed(codec) => vec![codec],
            CompressSetting::Xbzrle => vec![Codec::Raw],
        };
        menu.retain(|codec| readable(*codec));
        if menu.is_empty() {
            menu.push(Codec::Raw);
        }
        Self {
            costs: CostTable::new(&menu),
            menu,
            price: Price::new(workers, limit.stretch(workers)),
            trial_credit_ns: 0.0,
        }
    }

    /// Every codec that may be chosen, for a [`BlockEncoder`](super::block::BlockEncoder).
    pub fn codecs(&self) -> &[Codec] {
        &self.menu
    }

    /// The codec for a block of these pages.
    pub fn choose(&mut self, pages: &[u8]) -> Choice {
        let class = if self.menu.len() == 1 {
            // There is nothing to choose, and no need to look.
            ContentClass::default()
        } else {
            ContentClass::of(pages)
        };
        self.choose_for(class, pages.len())
    }

    /// The codec for a block of `bytes` bytes of pages of this class.
    pub fn choose_for(&mut self, class: ContentClass, bytes: usize) -> Choice {
        let cell = Cell::new(class, bytes / PAGE_BYTES);
        let choice = |index: usize, trial: Option<usize>| Choice {
            codec: self.menu[index],
            index,
            cell,
            trial: trial.map(|trial| (trial, self.menu[trial])),
        };
        if self.menu.len() == 1 {
            return choice(0, None);
        }
        let rates = self.price.rates();
        let mut costs = [f64::INFINITY; MOST_CODECS];
        let mut best = 0;
        for index in 0..self.menu.len() {
            costs[index] = rates.cost(self.costs.estimate(index, cell));
            if costs[index] < costs[best] {
                best = index;
            }
        }
        let best_cost = costs[best];
        let bytes = bytes as f64;
        let may_win = |index: usize| costs[index] <= best_cost * MAY_WIN;
        let trial = self.costs.stalest(cell, STALE_BLOCKS, may_win);
        let trial = trial.filter(|trial| {
            let cost_ns = rates.packing(self.costs.estimate(*trial, cell)) * bytes;
            *trial != best && cost_ns <= self.trial_credit_ns
        });
        let choice = choice(best, trial);
        self.costs.chosen(cell);
        self.trial_credit_ns += best_cost * bytes * TRIAL_SHARE;
        choice
    }

    /// What it is worth at present not to send so many bytes, in time of the worker thread.
    pub fn wire_time(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(self.price.rates().wire_ns() * bytes as f64 / 1e9)
    }

    /// Learns from a block that was sent.
    pub fn record(&mut self, choice: Choice, outcome: Outcome) {
        if outcome.input_bytes == 0 {
            return;
        }
        let bytes = outcome.input_bytes as f64;
        self.price.sent(&outcome);
        let estimate = |encode: Duration, wire_bytes: u64| Estimate {
            encode_ns: nanoseconds(encode) / bytes,
            wire: wire_bytes as f64 / bytes,
        };
        let measured = estimate(outcome.encode, outcome.wire_bytes);
        self.costs.measured(choice.index, choice.cell, measured);
        if let Some(((trial, _), tried)) = choice.trial.zip(outcome.tried) {
            let other = estimate(tried.encode, tried.wire_bytes);
            let of = (choice.index, measured);
            self.costs.compared((trial, other), of, choice.cell);
            self.trial_credit_ns -= self.price.rates().packing(other) * bytes;
        }
    }

    /// Takes in how the link does.
    pub fn observe(&mut self, now: Instant, link: LinkConditions) {
        self.price.observe(now, link);
    }
}

fn auto_menu() -> Vec<Codec> {
    // Without zstd there are no levels.
    let zstd = AUTO_LEVELS
        .iter()
        .filter_map(|level| ZstdLevel::new(*level).ok())
        .map(Codec::Zstd);
    [Codec::Raw, Codec::Lz4].into_iter().chain(zstd).collect()
}

/// A time as the number that costs are counted in.
fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

#[cfg(test)]
mod tests;
