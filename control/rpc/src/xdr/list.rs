//! Lists with a limit.

use std::ops::Deref;

use super::{Input, Malformed, Xdr, put_length};

/// At most `MAX` values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    /// No value.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The values.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const MAX: usize> TryFrom<Vec<T>> for List<T, MAX> {
    type Error = Malformed;

    /// # Errors
    /// [`Malformed::TooLong`].
    fn try_from(values: Vec<T>) -> Result<Self, Malformed> {
        if values.len() > MAX {
            let length = values.len();
            return Err(Malformed::TooLong { length, limit: MAX });
        }
        Ok(Self(values))
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Xdr, const MAX: usize> Xdr for List<T, MAX> {
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.0.len(), out);
        for value in &self.0 {
            value.put(out);
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let count = input.length(MAX)?;
        // No value is shorter than a word.
        if count > input.rest().len() / 4 {
            return Err(Malformed::Short);
        }
        let values: Result<_, _> = (0..count).map(|_| T::take(input)).collect();
        values.map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{decoded, encoded};
    use super::*;

    #[test]
    fn a_count_beyond_the_message_takes_no_memory() {
        let count = u32::MAX.to_be_bytes();
        assert_eq!(
            decoded::<List<u64, { usize::MAX }>>(&count),
            Err(Malformed::Short)
        );
    }

    #[test]
    fn a_list_has_a_limit() {
        let full: List<i32, 3> = vec![1, 2, 3].try_into().unwrap();
        let bytes = encoded(&full);
        assert_eq!(decoded::<List<i32, 3>>(&bytes).unwrap(), full);
        let too_long = Malformed::TooLong {
            length: 3,
            limit: 2,
        };
        assert_eq!(decoded::<List<i32, 2>>(&bytes), Err(too_long));
        assert_eq!(List::<i32, 2>::try_from(vec![1, 2, 3]), Err(too_long));
    }
}
