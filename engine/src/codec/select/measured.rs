//! Measured costs of each codec on each class of blocks.
//!
//! Blocks of one class differ more than codecs do: one packs to a tenth and the next not at all,
//! while levels 3 and 7 of zstd are 3 % apart. Averages of what each codec made of the blocks that
//! came to it would compare blocks. So what a codec saves is a product: what the content of the
//! class lets any codec save, learnt from every packed block, times what this codec saves of that,
//! learnt only from [trials](Measured::tried), where two codecs pack the same block.

use super::Packed;
use super::class::BlockClass;
use super::priors::{Figures, prior};
use crate::codec::Codec;

/// Least weight of a new measurement: of a time, of the content, and of two codecs' savings.
const LEAST_WEIGHT: f64 = 0.1;

/// Measurements that a prior counts for.
const PRIOR_BLOCKS: f64 = 2.0;

/// A measurement of time counts for at most this often the average: the thread was interrupted.
const OUTLIER: f64 = 4.0;

/// Least saving of a block that two codecs can be compared by.
const LEAST_SAVING: f64 = 0.05;

/// Most by which the savings of two codecs may differ from the priors.
const MOST_RATIO: f64 = 4.0;

/// Most that a codec can save.
const MOST_SAVING: f64 = 0.99;

/// An average of which the first samples weigh most.
#[derive(Clone, Copy, Debug)]
struct Average {
    value: f64,
    count: f64,
}

impl Average {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let weight = (1.0 / (self.count + PRIOR_BLOCKS)).max(LEAST_WEIGHT);
        self.value += (value - self.value) * weight;
    }
}

/// One codec on one class of blocks.
#[derive(Clone, Copy, Debug)]
struct Cell {
    prior: Figures,
    /// Time to pack a byte, over the prior.
    time: Average,
    /// What it saves, over the prior, where the content lets codecs save what their priors say.
    saving: Average,
    /// Number of the block, in its class, that was packed last.
    at: u32,
}

/// One class of blocks.
#[derive(Clone, Copy, Debug)]
struct Content {
    /// What codecs save, over their priors.
    saving: Average,
    /// Blocks so far.
    blocks: u32,
}

/// See the module. Codecs are known by their index among the candidates.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    cells: Vec<[Cell; BlockClass::COUNT]>,
    contents: [Content; BlockClass::COUNT],
    /// Codecs that were used before. The first time takes longer: their memory is touched first.
    warm: Vec<bool>,
    /// This machine's time over that of the priors', for what was never measured.
    slowness: f64,
}

impl Measured {
    pub(super) fn new(candidates: &[Codec]) -> Self {
        let one = Average {
            value: 1.0,
            count: 0.0,
        };
        let cell = |codec: Codec, class| Cell {
            prior: prior(codec, class),
            time: one,
            saving: one,
            at: 0,
        };
        let content = |class: BlockClass| Content {
            saving: if class == BlockClass::RANDOM {
                Average { value: 0.0, ..one }
            } else {
                one
            },
            blocks: 0,
        };
        Self {
            cells: candidates
                .iter()
                .map(|codec| BlockClass::all().map(|class| cell(*codec, class)))
                .collect(),
            contents: BlockClass::all().map(content),
            warm: vec![false; candidates.len()],
            slowness: 1.0,
        }
    }

    /// What the codec costs on blocks of this class.
    pub(super) fn figures(&self, codec: usize, class: BlockClass) -> Figures {
        let cell = &self.cells[codec][class.index()];
        let time = if cell.time.count > 0.0 {
            cell.time.value
        } else {
            self.slowness
        };
        let content = self.contents[class.index()].saving.value;
        let saving = cell.prior.saving() * cell.saving.value * content;
        Figures {
            encode_ns: cell.prior.encode_ns * time,
            // What does not pack goes raw.
            decode_ns: if saving > LEAST_SAVING {
                cell.prior.decode_ns
            } else {
                0.0
            },
            wire: 1.0 - saving.clamp(0.0, MOST_SAVING),
        }
    }

    /// Counts a block of this class.
    pub(super) fn count(&mut self, class: BlockClass) {
        let blocks = &mut self.contents[class.index()].blocks;
        *blocks = blocks.wrapping_add(1);
    }

    /// Blocks of this class since the codec was used on one; the most there can be, if it never was.
    pub(super) fn age(&self, codec: usize, class: BlockClass) -> u32 {
        let cell = &self.cells[codec][class.index()];
        if cell.time.count > 0.0 {
            self.contents[class.index()].blocks.wrapping_sub(cell.at)
        } else {
            u32::MAX
        }
    }

    /// Takes in what the codec made of a block of this class.
    pub(super) fn packed(&mut self, codec: usize, class: BlockClass, packed: Packed) {
        self.timed(codec, class, packed.encode_ns());
        let cell = &self.cells[codec][class.index()];
        let expected = cell.prior.saving() * cell.saving.value;
        if expected > 0.0 {
            let content = &mut self.contents[class.index()];
            content.saving.add(packed.saving() / expected);
        }
    }

    /// Takes in what the codec at `tried` made of a block of which the one at `codec` made
    /// something as well.
    pub(super) fn tried(
        &mut self,
        (tried, by_trial): (usize, Packed),
        (codec, packed): (usize, Packed),
        class: BlockClass,
    ) {
        let used = self.cells[codec][class.index()];
        let expected = used.prior.saving() * used.saving.value;
        if expected == 0.0 {
            // Raw saves nothing that others could be compared with.
            self.packed(tried, class, by_trial);
            return;
        }
        self.timed(tried, class, by_trial.encode_ns());
        if packed.saving() < LEAST_SAVING {
            return;
        }
        let content = packed.saving() / expected;
        let cell = &mut self.cells[tried][class.index()];
        let ratio = by_trial.saving() / (cell.prior.saving() * content);
        cell.saving.add(ratio.clamp(1.0 / MOST_RATIO, MOST_RATIO));
    }

    /// Takes in what the codec took for a byte.
    fn timed(&mut self, codec: usize, class: BlockClass, encode_ns: f64) {
        if !std::mem::replace(&mut self.warm[codec], true) {
            return;
        }
        let slowness = self.slowness;
        let cell = &mut self.cells[codec][class.index()];
        if cell.prior.encode_ns == 0.0 {
            return;
        }
        if cell.time.count == 0.0 {
            cell.time.value = slowness;
        }
        let here = (encode_ns / cell.prior.encode_ns).min(OUTLIER * cell.time.value);
        cell.time.add(here);
        cell.at = self.contents[class.index()].blocks;
        if class != BlockClass::RANDOM {
            // Content without order is passed over, which says little of the machine.
            self.slowness += (here.clamp(0.1, 10.0) - self.slowness) * LEAST_WEIGHT;
        }
    }
}
