//! Addresses of a process, as a set of areas.

use std::ops::Range;

/// Addresses as ranges that neither touch nor overlap, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Areas(Vec<Range<u64>>);

impl Areas {
    /// The ranges.
    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    /// The ranges of `within` that are not in the set.
    pub(super) fn gaps(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.0.partition_point(|area| area.end <= within.start);
        let end = Range {
            start: within.end,
            end: within.end,
        };
        let mut at = within.start;
        let areas = self.0[first..].iter().cloned();
        let areas = areas.take_while(move |area| area.start < within.end);
        areas.chain([end]).filter_map(move |area| {
            let gap = at..area.start;
            at = area.end;
            (gap.start < gap.end).then_some(gap)
        })
    }

    /// Adds `more`.
    pub(super) fn add(&mut self, more: &Self) {
        if more.0.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.0);
        all.extend_from_slice(&more.0);
        all.sort_unstable_by_key(|area| area.start);
        for area in all {
            self.push(area);
        }
    }

    /// Adds `area`, which begins at no lower address than any before.
    pub(super) fn push(&mut self, area: Range<u64>) {
        match self.0.last_mut() {
            Some(last) if area.start <= last.end => last.end = last.end.max(area.end),
            _ => self.0.push(area),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn areas(list: &[(u64, u64)]) -> Areas {
        let mut areas = Areas::default();
        list.iter().for_each(|&(start, end)| areas.push(start..end));
        areas
    }

    #[test]
    fn areas_that_touch_become_one() {
        let mut all = areas(&[(2, 4), (10, 12)]);
        all.add(&areas(&[(0, 1), (4, 6), (12, 13)]));
        assert_eq!(all, areas(&[(0, 1), (2, 6), (10, 13)]));
    }

    proptest! {
        #[test]
        fn what_is_in_no_gap_is_in_the_set(
            list in prop::collection::btree_set((0u64..60, 1u64..5), 0..12),
            (start, len) in (0u64..70, 0u64..70),
        ) {
            let mut all = Areas::default();
            list.iter().for_each(|&(start, len)| all.push(start..start + len));
            let gaps: Vec<_> = all.gaps(start..start + len).collect();
            for at in start..start + len {
                let is_in = list.iter().any(|&(start, len)| (start..start + len).contains(&at));
                prop_assert_eq!(is_in, !gaps.iter().any(|gap| gap.contains(&at)));
            }
            prop_assert!(gaps.iter().all(|gap| gap.start >= start && gap.end <= start + len));
        }
    }
}
