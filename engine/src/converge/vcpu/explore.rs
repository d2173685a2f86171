//! Unequal shares to learn from: each half of the busy vCPUs in turn is not throttled.
//!
//! Every two looks the vCPUs are halved anew, by one bit of their place after the other, so that
//! any two of them are soon apart; and each half has its turn to be spared, so that all get the
//! same. To spare a half altogether tells most: what is learned grows with the square of the
//! distance between the two shares, what is written meanwhile only with the distance.

use crate::converge::ThrottleShare;

/// Looks that an attempt may take, next to two a vCPU; and at most.
const LOOKS_MORE: usize = 8;
const LOOKS_MOST: usize = 40;

/// Least distance of the two shares.
const APART: f64 = 0.3;

/// How many looks an attempt may take.
pub(super) fn looks_most(busy: usize) -> usize {
    (2 * busy + LOOKS_MORE).min(LOOKS_MOST)
}

/// The shares of `vcpus` vCPUs, of which those in `busy` matter, until the next look. Empty with
/// fewer than two busy ones.
///
/// `wanted` is the share that they are to have together, `most` the most that one may have,
/// `attempt` the number of this attempt and `looks` those that it has had.
pub(super) fn halves(
    vcpus: usize,
    mut busy: Vec<usize>,
    wanted: ThrottleShare,
    most: ThrottleShare,
    attempt: u64,
    looks: usize,
) -> Vec<ThrottleShare> {
    if busy.len() < 2 {
        return Vec::new();
    }
    let bits = (busy.len() - 1).ilog2() as usize + 1;
    let (pair, turn) = (looks / 2, looks % 2);
    // Other places once all bits have been used.
    let order = attempt.wrapping_mul(1 << 16) + (pair / bits) as u64;
    busy.sort_by_key(|&vcpu| mix(order.wrapping_mul(1 << 20) ^ vcpu as u64));
    let high = ThrottleShare::fraction((2.0 * wanted.as_fraction()).max(APART)).min(most);
    let mut shares = vec![wanted; vcpus];
    for (place, &vcpu) in busy.iter().enumerate() {
        let spared = (place >> (pair % bits)) & 1 == turn;
        shares[vcpu] = if spared { ThrottleShare::NONE } else { high };
    }
    shares
}

/// The finalizer of splitmix64.
pub(super) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_are_soon_apart_and_each_has_its_turn() {
        let (wanted, most) = (ThrottleShare::permille(600), ThrottleShare::permille(900));
        for count in 2..20 {
            let busy: Vec<usize> = (0..count).map(|vcpu| vcpu * 2).collect();
            let looks = 2 * ((count - 1).ilog2() as usize + 1);
            let all: Vec<Vec<ThrottleShare>> = (0..looks)
                .map(|look| halves(count * 2, busy.clone(), wanted, most, 1, look))
                .collect();
            for pair in all.chunks(2) {
                for &vcpu in &busy {
                    let mut both = [pair[0][vcpu], pair[1][vcpu]];
                    both.sort_unstable();
                    assert_eq!(both, [ThrottleShare::NONE, most]);
                    // Idle ones have what all are to have.
                    assert_eq!(pair[0][vcpu + 1], wanted);
                }
            }
            for &a in &busy {
                for &b in busy.iter().filter(|b| **b != a) {
                    assert!(all.iter().any(|shares| shares[a] != shares[b]));
                }
            }
        }
        assert!(halves(3, vec![1], wanted, most, 1, 0).is_empty());
    }
}
