//! Arrays of C's `char`, each of which takes a whole word.

use super::{Input, Malformed, Xdr, put_length};

/// Characters that take a word each: an array of C's `char`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chars<const MAX: usize>(pub Vec<u8>);

impl<const MAX: usize> Xdr for Chars<MAX> {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.0.len(), out);
        for char in &self.0 {
            i32::from(char.cast_signed()).put(out);
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let count = input.length(MAX)?;
        if count > input.rest().len() / 4 {
            return Err(Malformed::Short);
        }
        let chars: Result<_, _> = (0..count).map(|_| take_char(input)).collect();
        chars.map(Self)
    }
}

/// Exactly `N` characters that take a word each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedChars<const N: usize>(pub [u8; N]);

impl<const N: usize> FixedChars<N> {
    /// `text`, cut to what there is room for, and NULs.
    pub fn padded(text: &str) -> Self {
        let mut chars = [0; N];
        for (char, byte) in chars.iter_mut().zip(text.bytes()) {
            *char = byte;
        }
        Self(chars)
    }
}

impl<const N: usize> Xdr for FixedChars<N> {
    fn put(&self, out: &mut Vec<u8>) {
        for char in &self.0 {
            i32::from(char.cast_signed()).put(out);
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let mut chars = [0; N];
        for char in &mut chars {
            *char = take_char(input)?;
        }
        Ok(Self(chars))
    }
}

fn take_char(input: &mut Input<'_>) -> Result<u8, Malformed> {
    let word = i32::take(input)?;
    let char = i8::try_from(word).map_err(|_| Malformed::BadValue(word))?;
    Ok(char.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{decoded, encoded};
    use super::*;

    #[test]
    fn characters_take_a_word_each() {
        let chars = Chars::<5>(vec![b'a', 0, 0xff]);
        let bytes = b"\0\0\0\x03\0\0\0a\0\0\0\0\xff\xff\xff\xff";
        assert_eq!(encoded(&chars), bytes);
        assert_eq!(decoded::<Chars<5>>(bytes).unwrap(), chars);
        assert_eq!(FixedChars::<4>::padded("x86_64").0, *b"x86_");
    }
}
