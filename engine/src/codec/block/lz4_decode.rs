//! The LZ4 decoder: one block, to the room there must be for it.
//!
//! Written from the description of the format (LZ4's `lz4_Block_format.md`); what is refused is what
//! `lz4_flex` refuses. A block is sequences of
//!
//! | field | bytes | meaning |
//! |---|---|---|
//! | token | 1 | high half: literals; low half: bytes of the match, less 4 |
//! | literals, more | any | if that half is 15: bytes to be added, up to the first that is not 255 |
//! | literals | as many | the next bytes of the content |
//! | offset | 2 | the match begins so many bytes before the end of the content so far, at least 1 |
//! | match, more | any | as for literals |
//!
//! and ends behind the literals of the last. A match longer than its offset repeats what it makes.
//! That matches end before the last five bytes is a rule for encoders, and not asked for here.
//!
//! Lengths are what branches cannot predict, so as much is copied as most of them need, if there
//! is room, and what was too much is written over by the next sequence. Where there is not, near
//! both ends, copies are exact.
//!
//! Nothing in the data is believed: each length is checked against what is left of data and room,
//! each offset against what was written, before anything is copied. All that is not checked by the
//! compiler goes through [`load`] and [`store`], which builds with assertions check as well.
//!
//! Cost: that of the C library within a tenth (`bench/benches/block.rs`), without special
//! instructions; `lz4_flex`, which is the oracle of the tests, takes 1.3 to 1.6 times as long.

#![allow(
    unsafe_code,
    reason = "copies within one buffer, checked once for a sequence and not once for each copy"
)]

/// What half of a token says if more bytes follow.
const MORE: usize = 15;

/// Bytes of the shortest match.
const SHORTEST_MATCH: usize = 4;

/// Bytes read of a sequence whose lengths are in its token: the token, 16 for literals (at most
/// 14), the offset.
const TOKEN_READS: usize = 1 + 16 + 2;

/// Bytes written for such a sequence: 14 literals, and a match in three steps of up to 8 bytes.
const TOKEN_WRITES: usize = 14 + 3 * STEP;

/// Bytes copied at a time where source and destination may be that close.
const STEP: usize = 8;

/// Bytes copied at a time where they are not.
const WIDE: usize = 32;

/// Why data is no block for its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lz4Error {
    /// The data ends within a sequence, or behind a match.
    #[error("it ends within a sequence")]
    Truncated,
    /// An offset is 0 or beyond the beginning.
    #[error("a match begins outside of the content before it")]
    Offset,
    /// There is more content than room.
    #[error("it holds more than its pages")]
    TooLong,
}

/// Bytes of the data that were read, and bytes of the content that were written. Neither is ever
/// more than there are.
#[derive(Clone, Copy)]
struct Place {
    read: usize,
    written: usize,
}

/// Unpacks `data` into the beginning of `out`; returns how much that was. What is behind it in
/// `out` is overwritten too.
///
/// # Errors
/// When `data` is no block, or is one of more than `out` holds. What `out` holds then is
/// unspecified.
pub(super) fn unpack(data: &[u8], out: &mut [u8]) -> Result<usize, Lz4Error> {
    // The first places that are too near the ends.
    let read_end = (data.len() + 1).saturating_sub(TOKEN_READS);
    let written_end = (out.len() + 1).saturating_sub(TOKEN_WRITES);
    let mut place = Place {
        read: 0,
        written: 0,
    };
    loop {
        while place.read < read_end && place.written < written_end {
            // SAFETY: by the condition there is room for a sequence of a token alone.
            match unsafe { roomy_sequence(data, out, place) }? {
                Some(next) => place = next,
                None => break,
            }
        }
        place = sequence(data, out, place)?;
        if place.read == data.len() {
            return Ok(place.written);
        }
    }
}

/// Unpacks a sequence that is not the last one; `None`, and nothing done, if its literals are too
/// many for what room there is.
///
/// # Safety
/// [`TOKEN_READS`] bytes of `data` and [`TOKEN_WRITES`] of `out` must be left.
#[inline(always)]
unsafe fn roomy_sequence(
    data: &[u8],
    out: &mut [u8],
    place: Place,
) -> Result<Option<Place>, Lz4Error> {
    let Place {
        mut read,
        mut written,
    } = place;
    // SAFETY: the caller vouches for it.
    let [token] = unsafe { load(data, read) };
    read += 1;
    let mut literals = usize::from(token >> 4);
    if literals < MORE {
        // SAFETY: the caller vouches for 16 bytes behind the token, and for more than 16 of room.
        unsafe { store::<16>(out, written, load(data, read)) };
    } else {
        literals += more(data, &mut read)?;
        if data.len() - read < literals + WIDE || out.len() - written < literals + WIDE {
            return Ok(None);
        }
        let mut at = 0;
        while at < literals {
            // SAFETY: `at < literals`, and there are WIDE bytes more than those in both.
            unsafe { store::<WIDE>(out, written + at, load(data, read + at)) };
            at += WIDE;
        }
    }
    read += literals;
    written += literals;
    // SAFETY: two of TOKEN_READS, behind up to 14 literals, or of the WIDE bytes behind more.
    let offset = usize::from(u16::from_le_bytes(unsafe { load(data, read) }));
    read += 2;
    check_offset(offset, written)?;
    let mut length = usize::from(token & 15) + SHORTEST_MATCH;
    if length == MORE + SHORTEST_MATCH {
        length += more(data, &mut read)?;
        copy_match(out, written, offset, length)?;
    } else {
        // SAFETY: three steps are left of TOKEN_WRITES behind up to 14 literals, and less than the
        // WIDE bytes behind more; the offset was checked.
        unsafe { copy_short_match(out, written, offset) };
    }
    written += length;
    Ok(Some(Place { read, written }))
}

/// Unpacks a sequence, wherever it is. If it is the last one, all data is read afterwards.
#[inline(never)]
fn sequence(data: &[u8], out: &mut [u8], place: Place) -> Result<Place, Lz4Error> {
    let Place {
        mut read,
        mut written,
    } = place;
    let token = *data.get(read).ok_or(Lz4Error::Truncated)?;
    read += 1;
    let mut literals = usize::from(token >> 4);
    if literals == MORE {
        literals += more(data, &mut read)?;
    }
    let from = data[read..].get(..literals).ok_or(Lz4Error::Truncated)?;
    let to = out[written..].get_mut(..literals);
    to.ok_or(Lz4Error::TooLong)?.copy_from_slice(from);
    read += literals;
    written += literals;
    if read == data.len() {
        return Ok(Place { read, written });
    }
    let offset = data[read..].first_chunk().ok_or(Lz4Error::Truncated)?;
    let offset = usize::from(u16::from_le_bytes(*offset));
    read += 2;
    check_offset(offset, written)?;
    let mut length = usize::from(token & 15) + SHORTEST_MATCH;
    if length == MORE + SHORTEST_MATCH {
        length += more(data, &mut read)?;
    }
    copy_match(out, written, offset, length)?;
    if read == data.len() {
        return Err(Lz4Error::Truncated);
    }
    written += length;
    Ok(Place { read, written })
}

#[inline(always)]
fn check_offset(offset: usize, written: usize) -> Result<(), Lz4Error> {
    // Both bounds at once: 0 becomes the largest number.
    if offset.wrapping_sub(1) < written {
        Ok(())
    } else {
        Err(Lz4Error::Offset)
    }
}

/// The rest of a length: bytes, added up, to the first that is not 255. It is at most 255 times as
/// long as the data, so that it cannot overflow.
#[inline(always)]
fn more(data: &[u8], read: &mut usize) -> Result<usize, Lz4Error> {
    let mut sum = 0;
    loop {
        let byte = *data.get(*read).ok_or(Lz4Error::Truncated)?;
        *read += 1;
        sum += usize::from(byte);
        if byte != 255 {
            return Ok(sum);
        }
    }
}

/// Copies a match of up to 18 bytes. Steps of 8 bytes each find what they load in one store of
/// before, if it is recent: wider ones are slower, because they do not.
///
/// # Safety
/// `3 * STEP` bytes must be left behind `written`, and `offset` be 1 to `written`.
#[inline(always)]
unsafe fn copy_short_match(out: &mut [u8], written: usize, offset: usize) {
    let from = written - offset;
    // SAFETY: the highest byte stored is the last of three steps. All that is loaded begins before
    // what is stored with it, or is the pattern.
    unsafe {
        if offset >= STEP {
            store::<STEP>(out, written, load(out, from));
            store::<STEP>(out, written + STEP, load(out, from + STEP));
            store::<2>(out, written + 2 * STEP, load(out, from + 2 * STEP));
        } else {
            // Steps of 5 at least: 18 bytes in three.
            let (pattern, step) = pattern(load(out, from), offset);
            store(out, written, pattern);
            store(out, written + step, pattern);
            store(out, written + 2 * step, pattern);
        }
    }
}

/// Copies a match of any length from `offset`, which was checked.
#[inline(always)]
fn copy_match(
    out: &mut [u8],
    written: usize,
    offset: usize,
    length: usize,
) -> Result<(), Lz4Error> {
    let left = out.len() - written;
    if left < length {
        return Err(Lz4Error::TooLong);
    }
    if left - length < WIDE {
        copy_match_near_end(out, written, offset, length);
        return Ok(());
    }
    let (mut to, end) = (written, written + length);
    // SAFETY: `to < end` for each store, and behind the end are WIDE bytes or more. Loads begin
    // `offset` before their stores, which is not before the beginning.
    unsafe {
        if offset >= WIDE {
            while to < end {
                store::<WIDE>(out, to, load(out, to - offset));
                to += WIDE;
            }
        } else if offset >= STEP {
            while to < end {
                store::<STEP>(out, to, load(out, to - offset));
                to += STEP;
            }
        } else {
            let (pattern, step) = pattern(load(out, to - offset), offset);
            while to < end {
                store(out, to, pattern);
                to += step;
            }
        }
    }
    Ok(())
}

/// Copies a match exactly: `offset` was checked, and `length` bytes are left.
#[inline(never)]
fn copy_match_near_end(out: &mut [u8], written: usize, offset: usize, length: usize) {
    let end = written + length;
    let mut to = written;
    while to < end {
        // Twice as much each time, if the match repeats.
        let bytes = (to - (written - offset)).min(end - to);
        out.copy_within(written - offset..written - offset + bytes, to);
        to += bytes;
    }
}

/// What repeats the first `offset` of `bytes`, 1 to 7, and how far it may be advanced so that it
/// goes on: the largest multiple of `offset` in it.
#[inline(always)]
fn pattern(bytes: [u8; STEP], offset: usize) -> ([u8; STEP], usize) {
    let (ones, step) = REPEAT[offset & 7];
    let first = u64::from_le_bytes(bytes) & ((1 << (8 * (offset & 7))) - 1);
    (first.wrapping_mul(ones).to_le_bytes(), step)
}

/// For each offset a one wherever it repeats, and the largest multiple of it up to 8.
const REPEAT: [(u64, usize); STEP] = {
    let mut table = [(0, 0); STEP];
    let mut offset = 1;
    while offset < STEP {
        let mut at = 0;
        while at < STEP {
            table[offset].0 |= 1 << (8 * at);
            at += offset;
        }
        table[offset].1 = STEP / offset * offset;
        offset += 1;
    }
    table
};

/// # Safety
/// `N` bytes from `at` on must be in `from`.
#[inline(always)]
unsafe fn load<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    debug_assert!(from.len() >= N && at <= from.len() - N);
    // SAFETY: the caller vouches for the bytes; arrays of bytes are aligned anywhere.
    unsafe { from.as_ptr().add(at).cast::<[u8; N]>().read() }
}

/// # Safety
/// `N` bytes from `at` on must be in `to`.
#[inline(always)]
unsafe fn store<const N: usize>(to: &mut [u8], at: usize, bytes: [u8; N]) {
    debug_assert!(to.len() >= N && at <= to.len() - N);
    // SAFETY: as above.
    unsafe { to.as_mut_ptr().add(at).cast::<[u8; N]>().write(bytes) };
}
