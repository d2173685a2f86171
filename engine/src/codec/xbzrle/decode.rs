//! The decoder, in place on the page as it stands.
//!
//! A page that is refused is as it was before: no caller need ever think of a page in between.
//! There are two ways to that, and the number of runs, estimated from the first, chooses:
//!
//! - A few runs, as in most deltas that are worth sending, are all checked before the first is
//!   applied. That walks the lengths twice, but touches no line of the page that does not change.
//! - Where there are more, the page is copied first, each run is applied as it is read, and the
//!   copy is put back if one is malformed.
//!
//! Cost: a run's place is known when the length before it is, so that each waits for a load from
//! the first level cache and two additions, 7 cycles or so. Deltas of several pages applied in turns
//! hide that wait; no move of a guest was 5 % faster by it (`docs/decisions/044`).

use crate::units::PAGE_BYTES;

/// Runs that are read before it is estimated how many there are.
const SAMPLED_RUNS: usize = 16;

/// Runs from which on it is worth copying the page.
const MANY_RUNS: usize = 80;

/// Length up to which runs are copied all alike.
const SHORT_BYTES: usize = 16;

/// Why bytes are not a delta for this page. Offsets are those of the header of the run at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XbzrleError {
    /// The delta is longer than a page, so that no encoder can have written it.
    #[error("a delta of {length} bytes, more than the page itself")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// The delta ends inside a length, before it, or before all literals.
    #[error("the delta ends inside the run at byte {at}")]
    Truncated {
        /// Where in the delta the run begins.
        at: usize,
    },
    /// A length of more than two bytes.
    #[error("the run at byte {at} has a length of more than 14 bits")]
    LongLength {
        /// Where in the delta the run begins.
        at: usize,
    },
    /// An nzrun of zero, or a zrun of zero that is not the first.
    #[error("the run at byte {at} has a length of zero")]
    ZeroLength {
        /// Where in the delta the run begins.
        at: usize,
    },
    /// A run ends behind the page.
    #[error("the run at byte {at} goes beyond the page")]
    BeyondPage {
        /// Where in the delta the run begins.
        at: usize,
    },
}

/// One run: where its literals are in the delta, and where they go.
#[derive(Clone, Copy, Debug)]
struct Run {
    from: usize,
    to: usize,
    length: usize,
}

/// The runs of a delta, checked one by one.
#[derive(Clone, Copy)]
struct Runs<'a> {
    delta: &'a [u8],
    page_bytes: usize,
    at: usize,
    end: usize,
}

impl Runs<'_> {
    /// The next run, which lies within delta and page; `None` after the last.
    #[inline(always)]
    fn next(&mut self) -> Result<Option<Run>, XbzrleError> {
        let at = self.at;
        let (zrun, nzrun, from) = match self.delta[at..].first_chunk::<2>() {
            // Both lengths below 128: nearly always.
            Some(&[zrun, nzrun]) if (zrun | nzrun) < 0x80 => {
                (usize::from(zrun), usize::from(nzrun), at + 2)
            }
            None if at == self.delta.len() => return Ok(None),
            _ => {
                let (zrun, from) = uleb(self.delta, at, at)?;
                let (nzrun, from) = uleb(self.delta, at, from)?;
                (zrun, nzrun, from)
            }
        };
        if nzrun == 0 || (zrun == 0 && at != 0) {
            return Err(XbzrleError::ZeroLength { at });
        }
        let to = self.end + zrun;
        let end = to + nzrun;
        if end > self.page_bytes {
            return Err(XbzrleError::BeyondPage { at });
        }
        if from + nzrun > self.delta.len() {
            return Err(XbzrleError::Truncated { at });
        }
        self.at = from + nzrun;
        self.end = end;
        Ok(Some(Run {
            from,
            to,
            length: nzrun,
        }))
    }
}

/// Applies `delta` to `page`, which must hold what the encoder had as the old content.
///
/// # Errors
/// When `delta` is malformed or does not fit `page`, which then is as it was.
pub fn decode(delta: &[u8], page: &mut [u8]) -> Result<(), XbzrleError> {
    if delta.len() > PAGE_BYTES {
        let length = delta.len();
        return Err(XbzrleError::TooLong { length });
    }
    let runs = Runs {
        delta,
        page_bytes: page.len(),
        at: 0,
        end: 0,
    };
    let mut ahead = runs;
    for _ in 0..SAMPLED_RUNS {
        if ahead.next()?.is_none() {
            return apply_checked(runs, page);
        }
    }
    // Many runs, by the length of the first.
    if delta.len() * SAMPLED_RUNS > ahead.at * MANY_RUNS
        && let Ok(page) = <&mut [u8; PAGE_BYTES]>::try_from(&mut *page)
    {
        return apply_or_restore(runs, page);
    }
    while ahead.next()?.is_some() {}
    apply_checked(runs, page)
}

/// Applies runs that have all been read once: none of them is an error any more.
fn apply_checked(mut runs: Runs<'_>, page: &mut [u8]) -> Result<(), XbzrleError> {
    while let Some(run) = runs.next()? {
        let literals = &runs.delta[run.from..run.from + run.length];
        copy(literals, &mut page[run.to..run.to + run.length]);
    }
    Ok(())
}

/// Applies runs as they are read, and restores the page if one of them is an error.
///
/// Not inlined: deltas of one run would pay for room on the stack that they do not use.
#[inline(never)]
fn apply_or_restore(runs: Runs<'_>, page: &mut [u8; PAGE_BYTES]) -> Result<(), XbzrleError> {
    let before = *page;
    let applied = apply_unchecked(runs, &before, page);
    if applied.is_err() {
        *page = before;
    }
    applied
}

/// Applies runs as they are read to `page`, which still is as `before`.
///
/// Most runs are short, and no two need be of one length: sixteen bytes are copied whatever the
/// length, which spares a branch that cannot be predicted. What was too many is put right before
/// the next run is written, from `before`: reading the page would wait for the last store.
fn apply_unchecked(
    mut runs: Runs<'_>,
    before: &[u8; PAGE_BYTES],
    page: &mut [u8; PAGE_BYTES],
) -> Result<(), XbzrleError> {
    loop {
        if let Some(next) = apply_short(runs, before, page) {
            runs = next;
            continue;
        }
        if !apply_any(&mut runs, before, page)? {
            return Ok(());
        }
    }
}

/// Applies the next run if it is short, as most are, and far from the end of delta and page.
#[inline(always)]
fn apply_short<'a>(
    runs: Runs<'a>,
    before: &[u8; PAGE_BYTES],
    page: &mut [u8; PAGE_BYTES],
) -> Option<Runs<'a>> {
    let [zrun, nzrun, sixteen @ ..] = runs
        .delta
        .get(runs.at..)?
        .first_chunk::<{ 2 + SHORT_BYTES }>()?;
    let (gap, length) = (usize::from(*zrun), usize::from(*nzrun));
    let to = runs.end + gap;
    if gap == 0
        || gap >= 0x80
        || length == 0
        || length > SHORT_BYTES
        || to > PAGE_BYTES - SHORT_BYTES
    {
        return None;
    }
    *page[runs.end..].first_chunk_mut::<SHORT_BYTES>()? = *before[runs.end..].first_chunk()?;
    *page[to..].first_chunk_mut::<SHORT_BYTES>()? = *sixteen;
    Some(Runs {
        at: runs.at + 2 + length,
        end: to + length,
        ..runs
    })
}

/// Applies the next run, whatever it is like; whether there was one.
#[inline(never)]
fn apply_any(
    runs: &mut Runs<'_>,
    before: &[u8; PAGE_BYTES],
    page: &mut [u8; PAGE_BYTES],
) -> Result<bool, XbzrleError> {
    let wrong = runs.end..PAGE_BYTES.min(runs.end + SHORT_BYTES);
    page[wrong.clone()].copy_from_slice(&before[wrong]);
    let Some(run) = runs.next()? else {
        return Ok(false);
    };
    page[run.to..run.to + run.length].copy_from_slice(&runs.delta[run.from..run.from + run.length]);
    Ok(true)
}

/// Copies between slices of one length, most of them so short that a call of `memcpy` costs more
/// than the copy.
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8]) {
    let short = match from.len() {
        0..2 => None,
        2..4 => ends::<2>(from, to),
        4..8 => ends::<4>(from, to),
        8..16 => ends::<8>(from, to),
        16..=32 => ends::<16>(from, to),
        _ => None,
    };
    if short.is_none() {
        match (from, &mut *to) {
            ([from], [to]) => *to = *from,
            _ => to.copy_from_slice(from),
        }
    }
}

/// Copies the first and the last `N` bytes, which may overlap; `None` if there are fewer.
#[inline(always)]
fn ends<const N: usize>(from: &[u8], to: &mut [u8]) -> Option<()> {
    *to.first_chunk_mut::<N>()? = *from.first_chunk()?;
    *to.last_chunk_mut::<N>()? = *from.last_chunk()?;
    Some(())
}

/// The ULEB128 length at `from` of the run that begins at `at`, and where it ends.
#[cold]
fn uleb(delta: &[u8], at: usize, from: usize) -> Result<(usize, usize), XbzrleError> {
    match delta.get(from..).unwrap_or(&[]) {
        [] => Err(XbzrleError::Truncated { at }),
        [low, ..] if *low < 0x80 => Ok((usize::from(*low), from + 1)),
        [_] => Err(XbzrleError::Truncated { at }),
        [_, high, ..] if *high >= 0x80 => Err(XbzrleError::LongLength { at }),
        [low, high, ..] => Ok((usize::from(*low & 0x7f) | usize::from(*high) << 7, from + 2)),
    }
}
