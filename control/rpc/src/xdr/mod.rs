//! XDR (RFC 4506), as far as the protocol uses it: words of four bytes, big-endian, each value padded
//! to whole words.
//!
//! Decoding is where bytes of strangers become values: every length is compared with its limit and
//! with what is left of the message, before anything is allocated.

mod chars;
mod list;

pub use chars::{Chars, FixedChars};
pub use list::List;

/// The longest string and the longest opaque value, in bytes.
pub const MAX_STRING_BYTES: usize = 4 << 20;

/// A body is not what its procedure has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends within a value.
    #[error("the message ends within a value")]
    Short,
    /// A string, list or opaque value is longer than it may be.
    #[error("a length of {length} where {limit} is the limit")]
    TooLong {
        /// The length that was sent.
        length: usize,
        /// The longest that it may be.
        limit: usize,
    },
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A word has a value that its type does not have.
    #[error("{0} is not a value of its type")]
    BadValue(i32),
}

/// What has not been decoded yet of a body.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `body`.
    pub const fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// What is left.
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A length that is at most `limit`.
    fn length(&mut self, limit: usize) -> Result<usize, Malformed> {
        let length = u32::take(self)? as usize;
        if length > limit {
            return Err(Malformed::TooLong { length, limit });
        }
        Ok(length)
    }

    /// Bytes behind their length, and the padding; what the padding holds does not matter.
    fn opaque(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.length(MAX_STRING_BYTES)?;
        let bytes = self.bytes(length)?;
        self.bytes(padding(length))?;
        Ok(bytes)
    }
}

/// A value that has an encoding.
pub trait Xdr: Sized {
    /// Appends the encoding to `out`.
    fn put(&self, out: &mut Vec<u8>);

    /// The value that `input` begins with.
    ///
    /// # Errors
    /// When it begins with none; how much of `input` is used up then is not said.
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed>;
}

const fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    // What is longer than a message may be is refused when the message is made (`Message::encode`).
    u32::try_from(length).unwrap_or(u32::MAX).put(out);
}

fn put_opaque(bytes: &[u8], out: &mut Vec<u8>) {
    put_length(bytes.len(), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(&[0; 3][..padding(bytes.len())]);
}

macro_rules! words {
    ($($kind:ty),*) => {$(
        impl Xdr for $kind {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
                input.array().map(Self::from_be_bytes)
            }
        }
    )*};
}

words!(i32, u32, i64, u64, f64);

impl Xdr for () {
    fn put(&self, _: &mut Vec<u8>) {}

    fn take(_: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(())
    }
}

impl Xdr for bool {
    fn put(&self, out: &mut Vec<u8>) {
        u32::from(*self).put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        match i32::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Malformed::BadValue(other)),
        }
    }
}

/// Clients are written in C: a string ends at the first NUL in it, if there is one.
impl Xdr for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_opaque(self.as_bytes(), out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let bytes = input.opaque()?;
        let end = bytes.iter().position(|byte| *byte == 0);
        let text = std::str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]);
        text.map(str::to_owned).map_err(|_| Malformed::NotUtf8)
    }
}

impl<T: Xdr> Xdr for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        bool::take(input)?.then(|| T::take(input)).transpose()
    }
}

impl<T: Xdr> Xdr for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        T::put(self, out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        T::take(input).map(Self::new)
    }
}

/// Bytes that only their maker understands: a migration cookie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opaque(pub Vec<u8>);

impl Xdr for Opaque {
    fn put(&self, out: &mut Vec<u8>) {
        put_opaque(&self.0, out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        input.opaque().map(|bytes| Self(bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn encoded(value: &impl Xdr) -> Vec<u8> {
        let mut out = Vec::new();
        value.put(&mut out);
        out
    }

    pub(super) fn decoded<T: Xdr>(bytes: &[u8]) -> Result<T, Malformed> {
        T::take(&mut Input::new(bytes))
    }

    #[test]
    fn strings_are_padded_to_words() {
        assert_eq!(encoded(&"g1".to_owned()), b"\0\0\0\x02g1\0\0");
        assert_eq!(encoded(&"four".to_owned()), b"\0\0\0\x04four");
        assert_eq!(decoded::<String>(b"\0\0\0\x02g1\0\0").unwrap(), "g1");
        assert_eq!(decoded::<String>(b"\0\0\0\x02g1\0"), Err(Malformed::Short));
        assert_eq!(
            decoded::<String>(b"\0\0\0\x01\xff\0\0\0"),
            Err(Malformed::NotUtf8)
        );
    }

    #[test]
    fn a_string_ends_at_its_nul() {
        assert_eq!(decoded::<String>(b"\0\0\0\x03a\0b\0").unwrap(), "a");
    }

    #[test]
    fn a_string_has_a_limit() {
        let mut bytes = encoded(&"x".repeat(MAX_STRING_BYTES));
        assert!(decoded::<String>(&bytes).is_ok());
        bytes[3] += 1;
        bytes.extend_from_slice(b"x\0\0\0");
        let too_long = Malformed::TooLong {
            length: MAX_STRING_BYTES + 1,
            limit: MAX_STRING_BYTES,
        };
        assert_eq!(decoded::<String>(&bytes), Err(too_long));
    }

    #[test]
    fn optional_values_have_a_word_before_them() {
        assert_eq!(encoded(&Some(7_i32)), b"\0\0\0\x01\0\0\0\x07");
        assert_eq!(encoded(&None::<i32>), b"\0\0\0\0");
        assert_eq!(
            decoded::<Option<i32>>(b"\0\0\0\x02"),
            Err(Malformed::BadValue(2))
        );
    }
}
