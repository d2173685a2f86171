//! What a guest does to its pages between two rounds.

use super::{PAGE_BYTES, Random};

/// How pages changed since they were last sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Not at all: written with what was there.
    Nothing,
    /// One aligned word of 8 bytes: a counter, a lock, a time stamp.
    OneWord,
    /// Objects of a heap: a few pointers and counters here and there, small values in them.
    Heap,
    /// An eighth of the bytes, in four runs of 128.
    EighthInRuns,
    /// An eighth of the words, in places without order.
    EighthInWords,
    /// An eighth of the bytes, in places without order.
    EighthScattered,
    /// A third of the bytes, in places without order: the lengths of runs and gaps are harder to
    /// guess than in any other set.
    ThirdScattered,
    /// The lowest byte of each word of 4: the most runs that gaps of three leave.
    EveryFourth,
    /// Every other byte.
    Alternating,
    /// Every other byte of the first half.
    HalfAlternating,
    /// Every byte.
    All,
}

impl Change {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Nothing,
        Self::OneWord,
        Self::Heap,
        Self::EighthInRuns,
        Self::EighthInWords,
        Self::EighthScattered,
        Self::ThirdScattered,
        Self::EveryFourth,
        Self::Alternating,
        Self::HalfAlternating,
        Self::All,
    ];

    /// The kind in a few words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "unchanged",
            Self::OneWord => "one-word",
            Self::Heap => "heap",
            Self::EighthInRuns => "eighth-in-runs",
            Self::EighthInWords => "eighth-in-words",
            Self::EighthScattered => "eighth-scattered",
            Self::ThirdScattered => "third-scattered",
            Self::EveryFourth => "every-fourth",
            Self::Alternating => "alternating",
            Self::HalfAlternating => "half-alternating",
            Self::All => "all",
        }
    }

    /// Changes each page of `pages`. A byte that changes becomes its complement, so that the
    /// content never hides a change.
    pub fn apply(self, pages: &mut [u8], seed: u64) {
        let mut random = Random(seed ^ 0x1234_5678_9abc_def1);
        for page in pages.chunks_exact_mut(PAGE_BYTES) {
            self.apply_to(page, &mut random);
        }
    }

    fn apply_to(self, page: &mut [u8], random: &mut Random) {
        let mut below = |end: usize| random.below(end as u64) as usize;
        match self {
            Self::Nothing => {}
            Self::OneWord => {
                let at = below(PAGE_BYTES / 8) * 8;
                flip(&mut page[at..at + 8]);
            }
            Self::Heap => {
                for _ in 0..12 {
                    let at = below(PAGE_BYTES / 8) * 8;
                    flip(&mut page[at..at + [1, 2, 6, 8][below(4)]]);
                }
            }
            Self::EighthInRuns => {
                for part in page.chunks_exact_mut(PAGE_BYTES / 4) {
                    let at = below(PAGE_BYTES / 4 - 128);
                    flip(&mut part[at..at + 128]);
                }
            }
            Self::EighthInWords => page
                .chunks_exact_mut(8)
                .filter(|_| below(8) == 0)
                .for_each(flip),
            Self::EighthScattered => page.chunks_mut(1).filter(|_| below(8) == 0).for_each(flip),
            Self::ThirdScattered => page.chunks_mut(1).filter(|_| below(3) == 0).for_each(flip),
            Self::EveryFourth => page.chunks_mut(1).step_by(4).for_each(flip),
            Self::Alternating => page.chunks_mut(1).step_by(2).for_each(flip),
            Self::HalfAlternating => {
                let half = page[..PAGE_BYTES / 2].chunks_mut(1);
                half.step_by(2).for_each(flip);
            }
            Self::All => flip(page),
        }
    }
}

fn flip(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_changes_as_the_names_say_and_the_same_again() {
        let old = vec![7; 64 * PAGE_BYTES];
        for change in Change::ALL {
            let mut new = old.clone();
            change.apply(&mut new, 3);
            let mut again = old.clone();
            change.apply(&mut again, 3);
            assert!(new == again, "{}", change.name());
            let changed = old.iter().zip(&new).filter(|(old, new)| old != new);
            let share = changed.count() as f64 / old.len() as f64;
            let (least, most) = match change {
                Change::Nothing => (0.0, 0.0),
                Change::OneWord => (8.0 / 4096.0, 8.0 / 4096.0),
                Change::Heap => (0.008, 0.014),
                Change::EighthInRuns => (0.125, 0.125),
                Change::EighthInWords | Change::EighthScattered => (0.12, 0.13),
                Change::ThirdScattered => (0.32, 0.35),
                Change::EveryFourth | Change::HalfAlternating => (0.25, 0.25),
                Change::Alternating => (0.5, 0.5),
                Change::All => (1.0, 1.0),
            };
            assert!(
                (least..=most).contains(&share),
                "{}: {share}",
                change.name()
            );
        }
    }
}
