//! In how many of the last rounds pages came up, in one byte each.
//!
//! A page gains [`STEP`] when it comes up and loses a quarter of its heat from round to round: a
//! page of every round settles at 253, one that came up once is cold after about 17 rounds.
//! Heats are kept in groups that are cooled together, and only when they are next looked at: a
//! round costs nothing for pages that stay clean.

/// What a page gains when it comes up.
pub(super) const STEP: u8 = 64;

/// Rounds after which any heat is gone: as many times a quarter of 255, rounded up, leaves 0.
const FORGOTTEN: u32 = 17;

/// Heats in groups of one size.
#[derive(Debug)]
pub(super) struct Heats {
    heats: Vec<u8>,
    group: usize,
    /// For each group, the round whose heats it has.
    rounds: Vec<u32>,
}

impl Heats {
    /// Memory that `count` heats in groups of `group` take.
    pub(super) fn bytes(count: usize, group: usize) -> u64 {
        count as u64 + count.div_ceil(group) as u64 * 4
    }

    /// `count` heats, all cold.
    pub(super) fn new(count: usize, group: usize) -> Self {
        Self {
            heats: vec![0; count],
            group,
            rounds: vec![0; count.div_ceil(group)],
        }
    }

    /// The heats of one group as they are in `round`, which is no earlier than in the last call.
    pub(super) fn group(&mut self, group: usize, round: u32) -> &mut [u8] {
        let start = group * self.group;
        let end = (start + self.group).min(self.heats.len());
        let heats = &mut self.heats[start..end];
        let passed = round.wrapping_sub(self.rounds[group]);
        self.rounds[group] = round;
        if passed >= FORGOTTEN {
            heats.fill(0);
        } else {
            for _ in 0..passed {
                heats.iter_mut().for_each(|heat| *heat -= heat.div_ceil(4));
            }
        }
        heats
    }

    /// One heat, as it is in `round`.
    pub(super) fn one(&mut self, index: usize, round: u32) -> &mut u8 {
        let at = index % self.group;
        &mut self.group(index / self.group, round)[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_every_round_is_hottest_and_an_idle_one_is_forgotten() {
        let mut heats = Heats::new(10, 4);
        for round in 1..=20 {
            let heat = heats.one(9, round);
            *heat = heat.saturating_add(STEP);
        }
        assert_eq!(*heats.one(9, 20), 253);
        let steps: Vec<u8> = (21..=20 + FORGOTTEN)
            .map(|round| *heats.one(9, round))
            .collect();
        assert!(steps.windows(2).all(|pair| pair[0] > pair[1]), "{steps:?}");
        assert_eq!(steps.last(), Some(&0));
    }

    #[test]
    fn it_does_not_matter_when_a_group_is_looked_at() {
        for passed in 0..40 {
            let (mut often, mut once) = (Heats::new(1, 4), Heats::new(1, 4));
            (*often.one(0, 0), *once.one(0, 0)) = (255, 255);
            (0..passed).for_each(|round| _ = often.one(0, round));
            assert_eq!(often.one(0, passed), once.one(0, passed), "{passed}");
        }
    }
}
