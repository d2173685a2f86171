//! The beginning of the device state: what the source says to the target before QEMU's stream.

/// First byte of the device state: this version of what follows.
const PREAMBLE_VERSION: u8 = 1;

/// Two bytes before QEMU's own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preamble {
    /// Whether the guest was running, and so has to run on the target.
    pub(super) run: bool,
}

impl Preamble {
    /// Length on the wire.
    pub(super) const BYTES: usize = 2;

    pub(super) fn encode(self) -> [u8; Self::BYTES] {
        [PREAMBLE_VERSION, u8::from(self.run)]
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [PREAMBLE_VERSION, run @ 0..=1] => Some(Self { run: run == 1 }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_reads_back_and_nothing_else_does() {
        for run in [false, true] {
            let preamble = Preamble { run };
            assert_eq!(Preamble::decode(&preamble.encode()), Some(preamble));
        }
        for wrong in [&[][..], &[1], &[1, 2], &[2, 1], &[1, 1, 1]] {
            assert_eq!(Preamble::decode(wrong), None);
        }
    }
}
