//! The decoder, in place on the page as it stands.
//!
//! A delta is checked whole before its first byte is applied, so that a page is either what the
//! encoder had or what it was before: no caller need ever think of a page in between. That walks
//! the lengths twice. Deltas of few runs, the ones that are worth sending, do not feel it (a dozen
//! runs: 48 ns instead of 27); the most runs a page can have take twice the time, at about the
//! rate of a 10 Gbit/s link.

use crate::units::PAGE_BYTES;

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
    let mut runs = Runs {
        delta,
        page_bytes: page.len(),
        at: 0,
        end: 0,
    };
    let mut ahead = runs;
    while ahead.next()?.is_some() {}
    // The same runs again: none of them is an error any more.
    while let Some(run) = runs.next()? {
        let literals = &delta[run.from..run.from + run.length];
        copy(literals, &mut page[run.to..run.to + run.length]);
    }
    Ok(())
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
