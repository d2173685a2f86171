//! XBZRLE: a page as the bytes that changed since a copy that the other side has.
//!
//! The format is QEMU's, byte for byte: what QEMU writes `decode` reads, and what `encode`
//! writes QEMU reads. A delta is any number of
//!
//! | field | bytes | meaning |
//! |---|---|---|
//! | zrun | 1 or 2 | unchanged bytes to pass over; 0 only in the first place |
//! | nzrun | 1 or 2 | bytes to replace, at least 1 |
//! | literals | nzrun | what to replace them with: the new bytes, not a difference |
//!
//! Lengths are ULEB128 of at most 14 bits: one byte below 128, else the low seven bits with the
//! highest bit set and then the high seven bits. What follows the last nzrun is unchanged and not
//! written. Literals may equal what they replace, so there are many encodings of one change.
//!
//! The old contents come from a [cache](super::cache); how a delta is framed is
//! the carrier's business. A delta is never longer than a page. Nothing here allocates once it is
//! set up.
//!
//! Cost for a page in the cache: one comparison of the pages, then a time that grows with the
//! number of runs. `bench/benches/xbzrle.rs` measures it all.

mod decode;
mod encode;
#[cfg(test)]
mod naive;
#[cfg(test)]
mod tests;

pub use decode::{XbzrleError, decode};
pub use encode::{Encoded, encode, encode_with};
