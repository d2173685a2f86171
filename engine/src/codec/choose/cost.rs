//! What each codec costs on each kind of block: moving averages of what was measured, and before
//! that, what was measured elsewhere, scaled to the speed of this machine.

use super::class::ContentClass;
use crate::codec::Codec;

/// Blocks of fewer pages count as small: their set-up and their lack of history show.
const LARGE_PAGES: usize = 8;

/// Kinds of blocks: classes of content, small and large.
const CELLS: usize = 2 * ContentClass::COUNT;

/// Least weight of a new measurement in an average.
const MIN_WEIGHT: f64 = 1.0 / 16.0;

/// Weight of a new measurement in what is known of the content.
const SIZE_WEIGHT: f64 = 0.25;

/// A measurement of time counts for at most this often the average: the thread was interrupted.
const OUTLIER: f64 = 4.0;

/// A kind of block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell(usize);

impl Cell {
    pub(super) fn new(class: ContentClass, pages: usize) -> Self {
        let large = usize::from(pages >= LARGE_PAGES);
        Self(class.index() * 2 + large)
    }

    fn is_random(self) -> bool {
        self.0 / 2 == ContentClass::RANDOM.index()
    }

    fn is_large(self) -> bool {
        self.0 % 2 == 1
    }
}

/// What a codec costs and yields, by byte of pages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    /// Nanoseconds to pack a byte.
    pub(super) encode_ns: f64,
    /// Bytes on the wire for a byte.
    pub(super) wire: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Average {
    encode_ns: f64,
    wire: f64,
    measurements: u32,
    /// Number of the block, in its cell, that was measured last.
    at: u32,
}

/// Averages by codec and cell.
#[derive(Clone, Debug)]
pub(super) struct CostTable {
    menu: Vec<Codec>,
    averages: Vec<[Average; CELLS]>,
    /// Blocks chosen for, by cell.
    blocks: [u32; CELLS],
    /// Bytes on the wire over those of the guess, by cell: what compresses well with one codec
    /// does so with the others.
    size: [f64; CELLS],
    /// This machine's time over that of the one the table of guesses is from.
    slowness: f64,
}

impl CostTable {
    pub(super) fn new(menu: &[Codec]) -> Self {
        Self {
            menu: menu.to_vec(),
            averages: vec![[Average::default(); CELLS]; menu.len()],
            blocks: [0; CELLS],
            size: [1.0; CELLS],
            slowness: 1.0,
        }
    }

    /// What the codec at `index` of the menu is thought to cost.
    pub(super) fn estimate(&self, index: usize, cell: Cell) -> Estimate {
        let average = &self.averages[index][cell.0];
        if average.measurements > 0 {
            return Estimate {
                encode_ns: average.encode_ns,
                wire: average.wire,
            };
        }
        let guess = guess(self.menu[index], cell);
        if self.menu[index] == Codec::Raw {
            return guess;
        }
        Estimate {
            encode_ns: guess.encode_ns * self.slowness,
            wire: (guess.wire * self.size[cell.0]).min(1.0),
        }
    }

    /// Counts a block of this kind.
    pub(super) fn chosen(&mut self, cell: Cell) {
        self.blocks[cell.0] = self.blocks[cell.0].wrapping_add(1);
    }

    /// The codec that was measured longest ago, or never, if that is at least `blocks` blocks
    /// of this kind. Raw needs no measuring.
    pub(super) fn stalest(&self, cell: Cell, blocks: u32) -> Option<usize> {
        let age = |index: usize| {
            let average = &self.averages[index][cell.0];
            if average.measurements == 0 {
                u32::MAX
            } else {
                self.blocks[cell.0].wrapping_sub(average.at)
            }
        };
        (0..self.menu.len())
            .filter(|index| self.menu[*index] != Codec::Raw)
            .max_by_key(|index| age(*index))
            .filter(|index| age(*index) >= blocks)
    }

    /// Takes in a measurement.
    pub(super) fn measured(&mut self, index: usize, cell: Cell, new: Estimate) {
        let codec = self.menu[index];
        if codec == Codec::Raw {
            return;
        }
        let size = new.wire / guess(codec, cell).wire;
        self.size[cell.0] += (size - self.size[cell.0]) * SIZE_WEIGHT;
        let average = &mut self.averages[index][cell.0];
        let weight = (1.0 / f64::from(average.measurements + 1)).max(MIN_WEIGHT);
        let mut encode_ns = new.encode_ns;
        if average.measurements > 1 {
            encode_ns = encode_ns.min(OUTLIER * average.encode_ns);
        }
        average.encode_ns += (encode_ns - average.encode_ns) * weight;
        average.wire += (new.wire - average.wire) * weight;
        average.measurements = average.measurements.saturating_add(1);
        average.at = self.blocks[cell.0];
        if !cell.is_random() {
            // Random content is passed over, which says little of the machine.
            let here = (encode_ns / guess(codec, cell).encode_ns).clamp(0.1, 10.0);
            self.slowness += (here - self.slowness) * MIN_WEIGHT;
        }
    }
}

/// Costs to begin with, between those of code and of heaps on one core of a Zen 5 server
/// (`docs/decisions/020-blocks-of-pages.md`).
fn guess(codec: Codec, cell: Cell) -> Estimate {
    let (encode_ns, wire) = match codec {
        Codec::Raw => (0.0, 1.0),
        Codec::Lz4 => (1.25, 0.5),
        Codec::Zstd(level) => match level.get() {
            ..=-30 => (0.45, 0.78),
            -29..=-15 => (0.8, 0.64),
            -14..=-1 => (1.4, 0.47),
            0..=2 => (1.85, 0.38),
            3..=4 => (2.8, 0.36),
            5..=9 => (9.0, 0.35),
            10.. => (60.0, 0.33),
        },
    };
    match (cell.is_random(), cell.is_large()) {
        (true, true) => Estimate {
            encode_ns: encode_ns * 0.05,
            wire: 1.0,
        },
        (true, false) => Estimate {
            encode_ns: encode_ns * 0.25,
            wire: 1.0,
        },
        (false, true) => Estimate { encode_ns, wire },
        // A third less is saved, and zstd takes half as long again.
        (false, false) => Estimate {
            encode_ns: encode_ns * 1.5,
            wire: wire + (1.0 - wire) / 6.0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MENU: [Codec; 2] = [Codec::Raw, Codec::Lz4];

    fn cell() -> Cell {
        Cell::new(ContentClass::default(), 64)
    }

    fn estimate(encode_ns: f64, wire: f64) -> Estimate {
        Estimate { encode_ns, wire }
    }

    #[test]
    fn the_first_measurement_replaces_the_guess_and_others_are_averaged() {
        let mut costs = CostTable::new(&MENU);
        costs.measured(1, cell(), estimate(3.0, 0.25));
        assert_eq!(costs.estimate(1, cell()), estimate(3.0, 0.25));
        costs.measured(1, cell(), estimate(5.0, 0.75));
        assert_eq!(costs.estimate(1, cell()), estimate(4.0, 0.5));
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
        assert_eq!(costs.stalest(cell(), 10), Some(1));
        costs.measured(1, cell(), estimate(1.0, 0.5));
        assert_eq!(costs.stalest(cell(), 10), None);
        for _ in 0..10 {
            costs.chosen(cell());
        }
        assert_eq!(costs.stalest(cell(), 10), Some(1));
    }
}
