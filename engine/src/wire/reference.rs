//! References: where the target finds the content of pages, and what it must be.
//!
//! ```text
//!  0  u64   place: a page number; of the guest if bit 63 is set, else a base page
//!  8  u128  identity of the content of all pages of the run together
//! ```
//!
//! The pages of a run are found one after the other from the place on. The identity is
//! [`Secret::identity`](crate::codec::dedup::Secret::identity).

use super::WireError;
use super::bytes::Cursor;
use crate::units::PageIndex;

/// Bytes of a reference.
pub const REFERENCE_BYTES: usize = 24;

/// Most pages of one reference.
///
/// Hashing is three times as fast over four pages or more as over one, and 44 bytes on the wire
/// are then shared by many; but one changed page makes all of them missing.
pub const MAX_REFERENCE_PAGES: usize = 32;

/// Set in a place that is a page of the guest.
const GUEST: u64 = 1 << 63;

/// Where the target has a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In its base pages, numbered as in its fingerprints; below
    /// 2^63.
    Base(u64),
    /// In the guest's memory.
    Guest(PageIndex),
}

/// Where the content of a run of pages is, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where the first page is; the others follow it.
    pub place: Place,
    /// Hash of the content of all of them.
    pub identity: u128,
}

impl Reference {
    /// The data of the run.
    pub fn encode(&self) -> [u8; REFERENCE_BYTES] {
        let place = match self.place {
            Place::Base(page) => page,
            Place::Guest(page) => page.0 | GUEST,
        };
        let mut bytes = [0; REFERENCE_BYTES];
        bytes[..8].copy_from_slice(&place.to_le_bytes());
        bytes[8..].copy_from_slice(&self.identity.to_le_bytes());
        bytes
    }

    /// Reads the data of a run.
    ///
    /// # Errors
    /// When its length is wrong.
    pub fn decode(data: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(data, "reference");
        let place = cursor.u64()?;
        let identity = cursor.u128()?;
        cursor.finish()?;
        let place = match place & GUEST {
            0 => Place::Base(place),
            _ => Place::Guest(PageIndex(place & !GUEST)),
        };
        Ok(Self { place, identity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_reference_reads_back_as_written(
            page in 0u64..1 << 63,
            of_guest in any::<bool>(),
            identity in any::<u128>(),
        ) {
            let place = match of_guest {
                true => Place::Guest(PageIndex(page)),
                false => Place::Base(page),
            };
            let reference = Reference { place, identity };
            prop_assert_eq!(Reference::decode(&reference.encode()), Ok(reference));
        }

        #[test]
        fn every_data_of_the_right_length_is_a_reference(
            data in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            match Reference::decode(&data) {
                Ok(reference) => prop_assert_eq!(reference.encode().to_vec(), data),
                Err(_) => prop_assert_ne!(data.len(), REFERENCE_BYTES),
            }
        }
    }
}
