//! Pages that are one 8-byte word, repeated: what allocators and kernels fill memory with.
//!
//! Such a page crosses the link as its word. Zero pages are of this kind too, but have an
//! encoding of their own, and are to be taken out [before](super::is_zero).
//!
//! Cost: a page that is not of this kind shows it in the first few probes, in 2 ns; one that is
//! takes 40 ns in the cache. The comparison of a page with itself, shifted by a word, is the C
//! library's `memcmp`, which uses the widest vectors of the machine: four times as fast as a
//! loop over words, and as fast as memory is read, so there is no kernel for it.

/// Bytes of the repeated word.
pub const SAME_FILLED_BYTES: usize = 8;

/// The word that fills a page. Its bytes are in the order of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SameFilled(pub [u8; SAME_FILLED_BYTES]);

impl SameFilled {
    /// The word that fills `data`, if one does.
    ///
    /// `None` as well for data shorter than a word, or of a length that is no multiple of one.
    pub fn of(data: &[u8]) -> Option<Self> {
        let word = *data.first_chunk::<SAME_FILLED_BYTES>()?;
        let probe = |at: usize| data[at..].first_chunk() == Some(&word);
        if !data.len().is_multiple_of(SAME_FILLED_BYTES)
            || !probe(data.len() / (2 * SAME_FILLED_BYTES) * SAME_FILLED_BYTES)
            || !probe(data.len() - SAME_FILLED_BYTES)
        {
            return None;
        }
        // Equal to itself one word further on: then every word equals the one before.
        (data[SAME_FILLED_BYTES..] == data[..data.len() - SAME_FILLED_BYTES]).then_some(Self(word))
    }

    /// Fills `out` with the word. A last part that is shorter than a word gets its beginning.
    pub fn write(self, out: &mut [u8]) {
        for word in out.chunks_mut(SAME_FILLED_BYTES) {
            word.copy_from_slice(&self.0[..word.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PAGE_BYTES;
    use proptest::prelude::*;

    #[test]
    fn a_single_byte_anywhere_spoils_a_filled_page() {
        let word = [1, 2, 3, 4, 5, 6, 7, 0];
        let mut page = [0; PAGE_BYTES];
        SameFilled(word).write(&mut page);
        assert_eq!(SameFilled::of(&page), Some(SameFilled(word)));
        for at in 0..PAGE_BYTES {
            page[at] ^= 0x10;
            assert_eq!(SameFilled::of(&page), None, "byte {at}");
            page[at] ^= 0x10;
        }
    }

    #[test]
    fn what_holds_no_whole_words_is_not_filled() {
        assert_eq!(SameFilled::of(&[]), None);
        assert_eq!(SameFilled::of(&[5; 7]), None);
        assert_eq!(SameFilled::of(&[5; 12]), None);
        assert_eq!(SameFilled::of(&[5; 8]), Some(SameFilled([5; 8])));
        assert_eq!(SameFilled::of(&[5; 16]), Some(SameFilled([5; 8])));
    }

    #[test]
    fn a_page_of_a_shorter_period_is_filled_and_one_of_a_longer_is_not() {
        let periodic =
            |period: usize| -> Vec<u8> { (0..PAGE_BYTES).map(|at| (at % period) as u8).collect() };
        assert!(SameFilled::of(&periodic(4)).is_some());
        assert_eq!(SameFilled::of(&periodic(16)), None);
        assert_eq!(SameFilled::of(&periodic(3)), None);
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            word in any::<[u8; 8]>(),
            words in 1usize..100,
            spoil in prop::option::of((0usize..800, 1u8..)),
        ) {
            let mut data = vec![0; words * SAME_FILLED_BYTES];
            SameFilled(word).write(&mut data);
            if let Some((at, bits)) = spoil {
                let at = at % data.len();
                data[at] ^= bits;
            }
            let first = &data[..SAME_FILLED_BYTES];
            let filled = data.chunks(SAME_FILLED_BYTES).all(|other| other == first);
            prop_assert_eq!(SameFilled::of(&data).is_some(), filled);
        }
    }
}
