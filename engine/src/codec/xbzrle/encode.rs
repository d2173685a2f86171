//! The encoder: masks of changed bytes, then runs of them, then bytes.
//!
//! A [kernel](DiffKernel) makes one bit for each byte. Runs are read off the masks by counting
//! zeros, so that the work is proportional to the number of runs and not to that of bytes. Where
//! the machine can, runs that are many in 64 bytes are [written at once](Squeezer); the rest of
//! those 64 bytes costs the same then, however many there are.
//!
//! Gaps of one or two unchanged bytes are sent as literals, which the format allows: a run of its
//! own would cost at least two bytes of lengths, so this is never longer (but for one byte where
//! the joined run needs a two-byte length) and saves a run, which is what time goes into. Every
//! other byte changed, the worst case of encoders that cut at each gap, becomes a single run.
//! Gaps of three are not filled: time would gain (at most 819 runs instead of 1024 in a page), but
//! arrays of counters of 32 bits would no longer fit.

use super::super::simd::{self, DIFF_WORDS, DiffKernel, Squeezer};
use crate::units::PAGE_BYTES;
use std::sync::LazyLock;

/// The fastest kernel of this machine, chosen once.
static KERNEL: LazyLock<DiffKernel> = LazyLock::new(simd::fastest_diff);

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// The page did not change: there is nothing to send.
    Unchanged,
    /// The delta is the first so many bytes of the output, at least 3.
    Delta(usize),
    /// The delta does not fit the output, or is longer than a page: send the page itself. The
    /// output's content has no meaning.
    Overflow,
}

/// Writes what changed from `old` to `new` to the start of `out`.
///
/// At most `PAGE_BYTES` of `out` are used, and no encoding that would be longer is written.
pub fn encode(old: &[u8; PAGE_BYTES], new: &[u8; PAGE_BYTES], out: &mut [u8]) -> Encoded {
    encode_with(*KERNEL, old, new, out)
}

/// [`encode`] with a kernel of the caller's choice; the bytes do not depend on it.
pub fn encode_with(
    kernel: DiffKernel,
    old: &[u8; PAGE_BYTES],
    new: &[u8; PAGE_BYTES],
    out: &mut [u8],
) -> Encoded {
    let mut masks = [0; DIFF_WORDS];
    let changed = kernel.diff(old, new, &mut masks);
    if changed == 0 {
        return Encoded::Unchanged;
    }
    let limit = out.len().min(PAGE_BYTES);
    match write_runs(kernel.squeezer(), &masks, changed, new, &mut out[..limit]) {
        Some(length) => Encoded::Delta(length),
        None => Encoded::Overflow,
    }
}

/// The mask of word `word` with gaps of one and two unchanged bytes filled.
#[inline]
fn filled(masks: &[u64; DIFF_WORDS], word: usize) -> u64 {
    let before = if word == 0 { 0 } else { masks[word - 1] };
    let after = masks.get(word + 1).copied().unwrap_or(0);
    let mask = masks[word];
    // Bit i of `below_n` is bit i - n of the page's mask, that of `above_n` is bit i + n.
    let below_1 = mask << 1 | before >> 63;
    let below_2 = mask << 2 | before >> 62;
    let above_1 = mask >> 1 | after << 63;
    let above_2 = mask >> 2 | after << 62;
    mask | below_1 & (above_1 | above_2) | below_2 & above_1
}

/// Writes all runs; the length of the delta, `None` if it does not fit.
fn write_runs(
    squeezer: Option<Squeezer>,
    masks: &[u64; DIFF_WORDS],
    changed: u64,
    new: &[u8; PAGE_BYTES],
    out: &mut [u8],
) -> Option<usize> {
    // A run that touches the end of a word may end there, which only the next word tells.
    let mut words = changed | changed << 1;
    let mut writer = Writer { length: 0, end: 0 };
    // Where a run began whose end is not known yet.
    let mut open = None;
    let mut before = 0;
    while words != 0 {
        let word = words.trailing_zeros() as usize;
        words &= words - 1;
        let mask = filled(masks, word);
        // The mask of the bytes before these. If the byte before the first was passed over, then
        // `before` is of an older word that was visited because its neighbour had changes, and is
        // zero itself.
        let previous = mask << 1 | before >> 63;
        before = mask;
        let mut starts = mask & !previous;
        let mut ends = !mask & previous;
        if let Some(start) = open {
            if ends == 0 {
                continue;
            }
            writer = writer.run(new, out, start, take_lowest(&mut ends, word))?;
        }
        if let Some(squeezer) = squeezer
            && has_four(ends)
        {
            // The gap before the first run may be long, and begin in an older word.
            let start = take_lowest(&mut starts, word);
            writer = writer.run(new, out, start, take_lowest(&mut ends, word))?;
            if let Some(squeezed) = writer.squeeze(squeezer, new, out, starts, ends) {
                writer = squeezed;
                // All but the run whose end is not known, which is the last if there is one.
                starts &= !((1 << (writer.end % 64)) - 1);
                ends = 0;
            }
        }
        // Each start that is left is followed by its end, but perhaps the last.
        while ends != 0 {
            let start = take_lowest(&mut starts, word);
            writer = writer.run(new, out, start, take_lowest(&mut ends, word))?;
        }
        open = (starts != 0).then(|| take_lowest(&mut starts, word));
    }
    if let Some(start) = open {
        writer = writer.run(new, out, start, PAGE_BYTES)?;
    }
    Some(writer.length)
}

/// The place in the page of the lowest bit of `edges`, which is cleared. There must be one.
#[inline(always)]
fn take_lowest(edges: &mut u64, word: usize) -> usize {
    let place = word * 64 + edges.trailing_zeros() as usize;
    *edges &= edges.wrapping_sub(1);
    place
}

/// Whether at least four bits are set; fewer runs are written faster one by one. Counting bits
/// takes longer where there is no instruction for it.
#[inline(always)]
fn has_four(edges: u64) -> bool {
    let but_one = edges & edges.wrapping_sub(1);
    let but_two = but_one & but_one.wrapping_sub(1);
    but_two & but_two.wrapping_sub(1) != 0
}

/// How far the delta is. Passed by value: in memory, each run would wait for the one before.
#[derive(Clone, Copy)]
struct Writer {
    /// Bytes of the delta so far.
    length: usize,
    /// Where in the page the last run ended.
    end: usize,
}

impl Writer {
    /// Writes the changed bytes from `start` to `end`; `None` if they do not fit.
    #[inline(always)]
    fn run(self, new: &[u8; PAGE_BYTES], out: &mut [u8], start: usize, end: usize) -> Option<Self> {
        let (gap, literals) = (start - self.end, end - start);
        let length = match (
            out.get_mut(self.length..self.length + 18),
            new.get(start..start + 16),
        ) {
            // Nearly always. Sixteen bytes are stored more quickly than few; what is too many
            // will be overwritten.
            (Some(out), Some(sixteen)) if gap < 0x80 && literals <= 16 => {
                out[0] = gap as u8;
                out[1] = literals as u8;
                out[2..].copy_from_slice(sixteen);
                self.length + 2 + literals
            }
            _ => long_run(gap, &new[start..end], out, self.length)?,
        };
        Some(Self { length, end })
    }

    /// Writes all runs of the word that the last run ended in: those with a bit in `ends`, of
    /// which there must be one. `None` if there may not be enough room.
    #[inline(always)]
    fn squeeze(
        self,
        squeezer: Squeezer,
        new: &[u8; PAGE_BYTES],
        out: &mut [u8],
        starts: u64,
        ends: u64,
    ) -> Option<Self> {
        let word = self.end / 64 * 64;
        let new = new[word..].first_chunk()?;
        let out = out.get_mut(self.length..)?.first_chunk_mut()?;
        let last = 63 - ends.leading_zeros();
        let starts = starts & ((1 << last) - 1);
        let length = squeezer.squeeze(new, starts, ends | 1 << (self.end % 64), out);
        Some(Self {
            length: self.length + length,
            end: word + last as usize,
        })
    }
}

/// Writes any run at `at`; where it ends, `None` if it does not fit.
#[inline(never)]
fn long_run(gap: usize, literals: &[u8], out: &mut [u8], at: usize) -> Option<usize> {
    let (zrun, zrun_bytes) = uleb(gap);
    let (nzrun, nzrun_bytes) = uleb(literals.len());
    let header = zrun_bytes + nzrun_bytes;
    let end = at + header + literals.len();
    let out = out.get_mut(at..end)?;
    out[..zrun_bytes].copy_from_slice(&zrun[..zrun_bytes]);
    out[zrun_bytes..header].copy_from_slice(&nzrun[..nzrun_bytes]);
    out[header..].copy_from_slice(literals);
    Some(end)
}

/// A length below 2^14 as ULEB128, and how many of the bytes it has.
#[inline]
fn uleb(length: usize) -> ([u8; 2], usize) {
    if length < 0x80 {
        ([length as u8, 0], 1)
    } else {
        ([length as u8 | 0x80, (length >> 7) as u8], 2)
    }
}
