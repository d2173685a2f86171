//! What each codec costs on each kind of block: moving averages of what was measured, and before
//! that a [guess](mod@super::guess), scaled to the speed of this machine.
//!
//! Blocks of one class differ more than codecs do: of the same class, one block packs to a tenth
//! and the next not at all, while levels 3 and 7 of zstd are 3 % apart. Averages of what each
//! codec made of the blocks that came to it would compare blocks. So what a codec saves is the
//! product of two factors. What the content of the class lets any codec save is learnt from every
//! packed block, whatever packed it. What a codec saves of that is learnt only where two codecs
//! packed the same block ([`CostTable::compared`]). A product, because pages without order among
//! others take the same share of every codec's saving; and raw is a codec that saves nothing.

use super::guess::{CELLS, Cell, Estimate, guess};
use crate::codec::Codec;

/// Least weight of a new measurement in an average.
const MIN_WEIGHT: f64 = 1.0 / 16.0;

/// Blocks that the guess counts for beside measurements of time: an error in the only one of a codec
/// that is then not chosen is not corrected for long.
const GUESS_BLOCKS: u32 = 2;

/// Least weight of a new block in what is known of the content.
const CONTENT_WEIGHT: f64 = 0.125;

/// Least weight of a new comparison of two codecs.
const RATIO_WEIGHT: f64 = 0.125;

/// Most that a codec can save.
const MOST_SAVED: f64 = 0.99;

/// Least saving of a block that two codecs can be compared by.
const LEAST_SAVED: f64 = 0.05;

/// Most by which the savings of two codecs may differ from the guess.
const MOST_RATIO: f64 = 4.0;

/// A measurement of time counts for at most this often the average: the thread was interrupted.
const OUTLIER: f64 = 4.0;

/// What is known of a codec on a kind of block.
#[derive(Clone, Copy, Debug)]
struct Average {
    encode_ns: f64,
    measurements: u32,
    /// Number of the block, in its cell, that was measured last.
    at: u32,
    /// What it saves over what the guess says, where the reference does as guessed.
    ratio: f64,
    comparisons: u32,
}

impl Average {
    const NONE: Self = Self {
        encode_ns: 0.0,
        measurements: 0,
        at: 0,
        ratio: 1.0,
        comparisons: 0,
    };
}

/// What is known of a kind of block.
#[derive(Clone, Copy, Debug)]
struct Content {
    /// What codecs save of it, over what the guess says.
    saving: f64,
    measurements: u32,
    /// Blocks chosen for.
    blocks: u32,
}

/// Averages by codec and cell.
#[derive(Clone, Debug)]
pub(super) struct CostTable {
    menu: Vec<Codec>,
    averages: Vec<[Average; CELLS]>,
    /// Codecs that were used before. The first time takes longer: their memory is touched first.
    warm: Vec<bool>,
    contents: [Content; CELLS],
    /// This machine's time over that of the one the table of guesses is from.
    slowness: f64,
}

impl CostTable {
    pub(super) fn new(menu: &[Codec]) -> Self {
        let content = |cell: Cell| Content {
            saving: if cell.is_random() { 0.0 } else { 1.0 },
            measurements: 0,
            blocks: 0,
        };
        Self {
            menu: menu.to_vec(),
            averages: vec![[Average::NONE; CELLS]; menu.len()],
            warm: vec![false; menu.len()],
            contents: Cell::all().map(content),
            slowness: 1.0,
        }
    }

    /// What the codec at `index` of the menu is thought to cost.
    pub(super) fn estimate(&self, index: usize, cell: Cell) -> Estimate {
        let guess = guess(self.menu[index], cell);
        if self.menu[index] == Codec::Raw {
            return guess;
        }
        let average = &self.averages[index][cell.index()];
        let encode_ns = if average.measurements > 0 {
            average.encode_ns
        } else {
            guess.encode_ns * self.slowness
        };
        let saving = guess.saving() * average.ratio * self.contents[cell.index()].saving;
        Estimate {
            encode_ns,
            wire: 1.0 - saving.min(MOST_SAVED),
        }
    }

    /// Counts a block of this kind.
    pub(super) fn chosen(&mut self, cell: Cell) {
        let blocks = &mut self.contents[cell.index()].blocks;
        *blocks = blocks.wrapping_add(1);
    }

    /// Of the codecs that are `worth` it, the one that was measured longest ago, or never, if that is
    /// at least `blocks` blocks of this kind. Raw needs no measuring.
    pub(super) fn stalest(
        &self,
        cell: Cell,
        blocks: u32,
        worth: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let age = |index: usize| {
            let average = &self.averages[index][cell.index()];
            if average.measurements == 0 {
                u32::MAX
            } else {
                self.contents[cell.index()].blocks.wrapping_sub(average.at)
            }
        };
        (0..self.menu.len())
            .filter(|index| self.menu[*index] != Codec::Raw && worth(*index))
            .max_by_key(|index| age(*index))
            .filter(|index| age(*index) >= blocks)
    }

    /// Takes in what a codec made of a block.
    pub(super) fn measured(&mut self, index: usize, cell: Cell, new: Estimate) {
        if self.menu[index] == Codec::Raw {
            return;
        }
        self.timed(index, cell, new.encode_ns);
        let expected =
            guess(self.menu[index], cell).saving() * self.averages[index][cell.index()].ratio;
        let content = &mut self.contents[cell.index()];
        content.measurements = content.measurements.saturating_add(1);
        let weight = (1.0 / f64::from(content.measurements + 1)).max(CONTENT_WEIGHT);
        content.saving += (new.saving() / expected - content.saving) * weight;
    }

    /// Takes in what the codec at `index` made of a block of which the one at `by` made
    /// something as well, which [was measured](Self::measured).
    pub(super) fn compared(
        &mut self,
        (index, new): (usize, Estimate),
        (by, reference): (usize, Estimate),
        cell: Cell,
    ) {
        if self.menu[by] == Codec::Raw {
            self.measured(index, cell, new);
            return;
        }
        self.timed(index, cell, new.encode_ns);
        if reference.saving() < LEAST_SAVED {
            return;
        }
        let guessed = |index: usize| guess(self.menu[index], cell).saving();
        let ratio =
            new.saving() / reference.saving() * self.averages[by][cell.index()].ratio * guessed(by)
                / guessed(index);
        let average = &mut self.averages[index][cell.index()];
        average.comparisons = average.comparisons.saturating_add(1);
        let weight = (1.0 / f64::from(average.comparisons + 1)).max(RATIO_WEIGHT);
        let ratio = ratio.clamp(1.0 / MOST_RATIO, MOST_RATIO);
        average.ratio += (ratio - average.ratio) * weight;
    }

    /// Takes in what a codec took for a byte.
    fn timed(&mut self, index: usize, cell: Cell, encode_ns: f64) {
        if !std::mem::replace(&mut self.warm[index], true) {
            return;
        }
        let guess = guess(self.menu[index], cell).encode_ns;
        let average = &mut self.averages[index][cell.index()];
        if average.measurements == 0 {
            average.encode_ns = guess * self.slowness;
        }
        let counted = average.measurements + 1 + GUESS_BLOCKS;
        let weight = (1.0 / f64::from(counted)).max(MIN_WEIGHT);
        let encode_ns = encode_ns.min(OUTLIER * average.encode_ns);
        average.encode_ns += (encode_ns - average.encode_ns) * weight;
        average.measurements = average.measurements.saturating_add(1);
        average.at = self.contents[cell.index()].blocks;
        if !cell.is_random() {
            // Random content is passed over, which says little of the machine.
            let here = (encode_ns / guess).clamp(0.1, 10.0);
            self.slowness += (here - self.slowness) * MIN_WEIGHT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::class::ContentClass;
    use super::*;
    #[cfg(feature = "zstd")]
    use crate::codec::ZstdLevel;

    const MENU: [Codec; 2] = [Codec::Raw, Codec::Lz4];

    fn cell() -> Cell {
        Cell::new(ContentClass::default(), 64)
    }

    #[cfg(feature = "zstd")]
    fn zstd(level: i32) -> Codec {
        Codec::Zstd(ZstdLevel::new(level).unwrap())
    }

    fn estimate(encode_ns: f64, wire: f64) -> Estimate {
        Estimate { encode_ns, wire }
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn blocks_of_one_class_that_differ_do_not_change_which_codec_saves_more() {
        let mut costs = CostTable::new(&[Codec::Raw, Codec::Lz4, zstd(3), zstd(7)]);
        // The blocks that came to level 7 happened to be the ones that hardly pack.
        for _ in 0..100 {
            costs.measured(2, cell(), estimate(3.0, 0.25));
            costs.measured(3, cell(), estimate(10.0, 0.95));
        }
        let wire = |index| costs.estimate(index, cell()).wire;
        assert!(wire(3) < wire(2) && wire(2) < wire(1) && wire(1) < 1.0);
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn codecs_are_compared_by_the_blocks_that_both_packed() {
        let mut costs = CostTable::new(&[Codec::Raw, Codec::Lz4, zstd(3)]);
        // Where LZ4 saves half, zstd saves as much, whatever the block.
        for block in 0..100 {
            let saved = 0.1 + 0.2 * f64::from(block % 4);
            let (other, of) = (estimate(1.0, 1.0 - saved), estimate(3.0, 1.0 - saved));
            costs.measured(2, cell(), of);
            costs.compared((1, other), (2, of), cell());
        }
        let wire = |index| costs.estimate(index, cell()).wire;
        assert!((wire(1) - wire(2)).abs() < 0.01, "{} {}", wire(1), wire(2));
        assert!((0.4..0.8).contains(&wire(1)), "a mean: {}", wire(1));
    }

    #[test]
    fn content_without_order_saves_nothing_until_it_does() {
        let mut costs = CostTable::new(&MENU);
        let random = Cell::new(ContentClass::RANDOM, 64);
        assert_eq!(costs.estimate(1, random).wire, 1.0);
        // Pages without order that repeat.
        for _ in 0..50 {
            let other = estimate(1.0, 0.25);
            costs.compared((1, other), (0, estimate(0.0, 1.0)), random);
        }
        assert!((costs.estimate(1, random).wire - 0.25).abs() < 0.05);
    }

    #[test]
    fn neither_the_first_use_nor_a_single_measurement_is_believed() {
        let mut costs = CostTable::new(&MENU);
        let guessed = costs.estimate(1, cell()).encode_ns;
        costs.measured(1, cell(), estimate(20.0 * guessed, 0.5));
        assert_eq!(costs.estimate(1, cell()).encode_ns, guessed);
        costs.measured(1, cell(), estimate(2.0 * guessed, 0.5));
        assert!(costs.estimate(1, cell()).encode_ns < 1.4 * guessed);
        for _ in 0..100 {
            costs.measured(1, cell(), estimate(2.0 * guessed, 0.5));
        }
        assert!(costs.estimate(1, cell()).encode_ns > 1.9 * guessed);
    }

    #[test]
    fn an_interrupted_measurement_does_not_spoil_the_average() {
        let mut costs = CostTable::new(&MENU);
        for _ in 0..100 {
            costs.measured(1, cell(), estimate(1.0, 0.5));
        }
        costs.measured(1, cell(), estimate(1000.0, 0.5));
        assert!(costs.estimate(1, cell()).encode_ns < 1.2);
    }

    #[test]
    fn a_slow_machine_shows_in_the_guesses_for_other_content() {
        let mut costs = CostTable::new(&MENU);
        let other = Cell::new(ContentClass::RANDOM, 64);
        let before = costs.estimate(1, other).encode_ns;
        for _ in 0..200 {
            costs.measured(1, cell(), estimate(3.75, 0.5));
        }
        let after = costs.estimate(1, other).encode_ns;
        assert!((after / before - 3.0).abs() < 0.01, "{before} -> {after}");
    }

    #[test]
    fn raw_is_known_and_never_stale() {
        let mut costs = CostTable::new(&MENU);
        costs.measured(0, cell(), estimate(9.0, 9.0));
        assert_eq!(costs.estimate(0, cell()), estimate(0.0, 1.0));
        assert_eq!(costs.stalest(cell(), 10, |_| true), Some(1));
        costs.measured(1, cell(), estimate(1.0, 0.5));
        assert_eq!(costs.stalest(cell(), 10, |_| true), Some(1), "still cold");
        costs.measured(1, cell(), estimate(1.0, 0.5));
        assert_eq!(costs.stalest(cell(), 10, |_| true), None);
        for _ in 0..10 {
            costs.chosen(cell());
        }
        assert_eq!(costs.stalest(cell(), 10, |_| true), Some(1));
    }
}
