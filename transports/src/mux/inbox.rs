//! What a stream has received and nobody has read yet: slots of fixed size, in order.
//!
//! The reader of the byte stream takes a slot out, fills it without a lock, and puts it back. A slot
//! is taken on where the next bytes fit, so that at most twice the window is in memory however small
//! the pieces are.

use std::collections::VecDeque;

use super::{SLICE_BYTES, WINDOW_BYTES};

/// Memory for received bytes.
#[derive(Debug)]
pub(super) struct Slot {
    bytes: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl Slot {
    fn new() -> Self {
        Self {
            bytes: vec![0; SLICE_BYTES].into(),
            begin: 0,
            end: 0,
        }
    }

    /// Where the next `length` bytes go: they are part of it from now on.
    pub(super) fn extend(&mut self, length: usize) -> &mut [u8] {
        let at = self.end;
        self.end += length;
        &mut self.bytes[at..self.end]
    }

    fn room(&self) -> usize {
        self.bytes.len() - self.end
    }
}

/// Received bytes.
#[derive(Debug)]
pub(super) struct Inbox {
    slots: VecDeque<Slot>,
    spare: Vec<Slot>,
    /// Bytes that the other side may still send.
    window: usize,
    /// Bytes that were read, for which it got no credit yet.
    read: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            slots: VecDeque::new(),
            spare: Vec::new(),
            window: WINDOW_BYTES,
            read: 0,
        }
    }
}

impl Inbox {
    /// A slot with room for `length` bytes, to be filled and [put](Self::put) back; `None` if the other
    /// side had no credit for them.
    pub(super) fn take(&mut self, length: usize) -> Option<Slot> {
        self.window = self.window.checked_sub(length)?;
        let fits = self.slots.back().is_some_and(|slot| slot.room() >= length);
        let last = fits.then(|| self.slots.pop_back()).flatten();
        Some(last.or_else(|| self.spare.pop()).unwrap_or_else(Slot::new))
    }

    /// What was taken, filled.
    pub(super) fn put(&mut self, slot: Slot) {
        self.slots.push_back(slot);
    }

    /// Moves bytes to `out`, in their order; how many.
    pub(super) fn read(&mut self, out: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < out.len()
            && let Some(slot) = self.slots.front_mut()
        {
            let count = (slot.end - slot.begin).min(out.len() - filled);
            out[filled..filled + count]
                .copy_from_slice(&slot.bytes[slot.begin..slot.begin + count]);
            filled += count;
            slot.begin += count;
            if slot.begin == slot.end
                && let Some(mut slot) = self.slots.pop_front()
            {
                (slot.begin, slot.end) = (0, 0);
                self.spare.push(slot);
            }
        }
        self.read += filled;
        filled
    }

    /// Credit that the other side is to get now, in large pieces.
    pub(super) fn credit(&mut self) -> Option<usize> {
        if self.read < WINDOW_BYTES / 4 {
            return None;
        }
        self.window += self.read;
        Some(std::mem::take(&mut self.read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in_and_memory_is_bounded(
            steps in prop::collection::vec((1..=SLICE_BYTES, 0..=2 * SLICE_BYTES), 1..200),
        ) {
            let mut inbox = Inbox::default();
            let (mut sent, mut taken, mut allowed) = (0_usize, 0_usize, WINDOW_BYTES);
            let mut out = vec![0; 2 * SLICE_BYTES];
            for (length, wanted) in steps {
                match inbox.take(length) {
                    Some(mut slot) => {
                        prop_assert!(length <= allowed);
                        allowed -= length;
                        for byte in slot.extend(length) {
                            *byte = (sent % 251) as u8;
                            sent += 1;
                        }
                        inbox.put(slot);
                    }
                    None => prop_assert!(length > allowed),
                }
                let count = inbox.read(&mut out[..wanted]);
                prop_assert_eq!(count, wanted.min(sent - taken));
                for byte in &out[..count] {
                    prop_assert_eq!(*byte, (taken % 251) as u8);
                    taken += 1;
                }
                allowed += inbox.credit().unwrap_or(0);
                let slots = inbox.slots.len() + inbox.spare.len();
                prop_assert!(slots * SLICE_BYTES <= 2 * WINDOW_BYTES + 2 * SLICE_BYTES);
            }
        }
    }
}
