//! The lease of the guest's stop, in a message.

use crate::HOLD_MS;
use crate::bytes::{DecodeError, Reader};

/// The lease of a guest's stop: if the client does not renew it, it counts as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldLease {
    millis: u32,
}

impl HoldLease {
    /// A lease of so many milliseconds.
    ///
    /// # Errors
    /// Outside [`HOLD_MS`].
    pub fn new(millis: u32) -> Result<Self, DecodeError> {
        if HOLD_MS.contains(&millis) {
            Ok(Self { millis })
        } else {
            Err(DecodeError::Field("hold", "must be 10 to 600000 ms"))
        }
    }

    /// Its length in milliseconds.
    pub fn millis(self) -> u32 {
        self.millis
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::new(reader.u32()?)
    }
}
