//! What the vCPUs of the demo's guest write, as pure functions.
//!
//! Write number `k` of a vCPU is a function of the seed, the vCPU and `k` alone, and so is what
//! a page held at the start. From the number of writes that each vCPU has done, the content of
//! the whole memory follows; that is the running proof that no write was lost.

use clap::ValueEnum;
use pagelift_engine::units::PAGE_BYTES;
use serde::{Deserialize, Serialize};

/// Which pages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Every page alike.
    Uniform,
    /// Few pages often, most pages hardly ever: Zipf's law with exponent 1.
    Zipf,
    /// One page after the other.
    Sequential,
    /// In turn: a small hot set, every page alike, one after the other.
    Phases,
}

/// Writes in one phase of [`Pattern::Phases`], per vCPU.
const PHASE_WRITES: u64 = 8192;

/// The guest: everything that its content depends on but the numbers of writes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// Seed of everything that looks random.
    pub seed: u64,
    /// Pages of memory.
    pub pages: u64,
    /// Pages, from the first on, that hold incompressible content at the start.
    pub filled_pages: u64,
    /// vCPUs; page `p` belongs to vCPU `p % vcpus`.
    pub vcpus: u32,
    /// Which pages are written.
    pub pattern: Pattern,
    /// Bytes of one write, a multiple of 8 up to a page.
    pub write_bytes: usize,
}

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// The page.
    pub page: u64,
    /// Where in the page it starts; a multiple of 8.
    pub offset: usize,
    key: u64,
}

impl Write {
    /// The 8-byte words that it writes.
    pub fn words(self, write_bytes: usize) -> impl Iterator<Item = u64> {
        (0..write_bytes as u64 / 8).map(move |index| mix(self.key.wrapping_add(index)))
    }
}

impl Script {
    /// Write number `number` of vCPU `vcpu`.
    pub fn write(&self, vcpu: u32, number: u64) -> Write {
        let own_pages = (self.pages - u64::from(vcpu)).div_ceil(u64::from(self.vcpus));
        let key = mix(mix(self.seed ^ u64::from(vcpu) << 48).wrapping_add(number));
        let chance = mix(key ^ 0x5eed);
        let index = match self.pattern {
            Pattern::Uniform => chance % own_pages,
            Pattern::Zipf => scatter(zipf(chance, own_pages), own_pages),
            Pattern::Sequential => number % own_pages,
            Pattern::Phases => match number / PHASE_WRITES % 3 {
                0 => scatter(chance % own_pages.div_ceil(20), own_pages),
                1 => chance % own_pages,
                _ => number % own_pages,
            },
        };
        let places = (PAGE_BYTES - self.write_bytes) as u64 / 8 + 1;
        Write {
            page: index * u64::from(self.vcpus) + u64::from(vcpu),
            offset: (mix(key ^ 0x0ff5) % places) as usize * 8,
            key,
        }
    }

    /// What page number `page` holds before the first write, as 8-byte words.
    pub fn initial_words(&self, page: u64) -> impl Iterator<Item = u64> + use<> {
        let (filled, start) = (page < self.filled_pages, mix(self.seed ^ !page));
        (0..PAGE_BYTES as u64 / 8).map(move |i| {
            if filled {
                mix(start.wrapping_add(i))
            } else {
                0
            }
        })
    }
}

/// A rank in `0..count` by Zipf's law with exponent 1: `count^u - 1` for a uniform `u`, since
/// the share of the first `n` ranks is `ln n / ln count`.
fn zipf(chance: u64, count: u64) -> u64 {
    let uniform = (chance >> 11) as f64 / (1u64 << 53) as f64;
    let rank = (count as f64).powf(uniform) as u64;
    rank.clamp(1, count) - 1
}

/// Spreads neighbouring ranks over the pages: a permutation where the factor, a prime, does not
/// divide `count`.
fn scatter(rank: u64, count: u64) -> u64 {
    let spread = u128::from(rank) * 2_654_435_761 % u128::from(count);
    u64::try_from(spread).unwrap_or(rank)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a permutation of 64-bit numbers whose
/// values look random.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(pattern: Pattern) -> Script {
        Script {
            seed: 3,
            pages: 1001,
            filled_pages: 700,
            vcpus: 3,
            pattern,
            write_bytes: 24,
        }
    }

    #[test]
    fn every_write_stays_in_its_page_and_with_its_vcpu() {
        for pattern in [
            Pattern::Uniform,
            Pattern::Zipf,
            Pattern::Sequential,
            Pattern::Phases,
        ] {
            let script = script(pattern);
            for vcpu in 0..3 {
                for number in 0..30_000 {
                    let write = script.write(vcpu, number);
                    assert!(write.page < script.pages);
                    assert_eq!(write.page % 3, u64::from(vcpu));
                    assert!(write.offset.is_multiple_of(8) && write.offset + 24 <= PAGE_BYTES);
                }
            }
        }
    }

    #[test]
    fn zipf_prefers_few_pages_and_uniform_none() {
        let hits_of_top_page = |pattern| {
            let script = script(pattern);
            let mut hits = vec![0u32; 1001];
            for number in 0..10_000 {
                hits[script.write(0, number).page as usize] += 1;
            }
            hits.into_iter().max().unwrap()
        };
        // 334 pages: ln 2 / ln 334 = 12 % of the writes go to the first rank.
        assert!((1000..1500).contains(&hits_of_top_page(Pattern::Zipf)));
        assert!(hits_of_top_page(Pattern::Uniform) < 100);
    }

    #[test]
    fn only_filled_pages_hold_anything_at_the_start() {
        let script = script(Pattern::Uniform);
        assert!(script.initial_words(699).all(|word| word != 0));
        assert!(script.initial_words(700).all(|word| word == 0));
        assert_ne!(
            script.initial_words(1).collect::<Vec<_>>(),
            script.initial_words(2).collect::<Vec<_>>()
        );
    }
}
