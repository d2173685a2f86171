//! The return path of QEMU's migration stream: what the target tells the source.
//!
//! A message is a type and a length, 16 bits each, big-endian, and that many bytes. The last one
//! is `SHUT`, with a 32-bit error value: 0 lets the source give the guest up, any other value
//! makes it run on. The reader here takes `SHUT` out of the bytes that pass, so that whoever
//! holds it decides.
//!
//! Pure: bytes in, bytes out, no I/O. It keeps at most one message, [`MAX_BODY_BYTES`] long.
//!
//! `RECV_BITMAP`, the one message that carries bytes outside its length, belongs to the recovery
//! of QEMU's own post-copy, which never runs here; it is refused.

/// Longest body of a message, in bytes; QEMU's own limit.
pub const MAX_BODY_BYTES: usize = 512;

/// The message that makes a source give its guest up: type 1, length 4, error value 0.
pub const SHUT_SUCCESS: [u8; 8] = [0, 1, 0, 4, 0, 0, 0, 0];

const HEADER_BYTES: usize = 4;
const SHUT: u16 = 1;
const RECV_BITMAP: u16 = 5;
/// `SWITCHOVER_ACK` of QEMU 8.1.
const LAST_KNOWN: u16 = 7;

/// The target's verdict on what it has loaded. A value other than 0 is a failure; 0 is no proof
/// of the opposite, since QEMU 10.0 says it too when a device fails to load after the last byte
/// was read. Whether the guest is loaded is for the target's monitor to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shut {
    /// 0 when the target's QEMU found nothing wrong with the stream.
    pub error: u32,
}

/// Bytes that are no return path of a pre-copy migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReturnPathError {
    /// Something follows the message that ends the path.
    #[error("the target's QEMU went on after its last message (SHUT)")]
    AfterShut,
    /// A length that the type cannot have.
    #[error("the target's QEMU sent a message of type {kind} with {body_bytes} bytes")]
    BadLength {
        /// The message's type.
        kind: u16,
        /// Its length.
        body_bytes: u16,
    },
    /// A type that has no place here.
    #[error("the target's QEMU sent a message of type {0}, which no pre-copy migration has")]
    BadType(u16),
}

/// A reader of the return path.
#[derive(Clone, Debug, Default)]
pub struct ReturnPath {
    /// The message that is not complete yet.
    partial: Vec<u8>,
    shut: Option<Shut>,
}

impl ReturnPath {
    /// Takes the next `bytes`; whole messages but `SHUT` are appended to `forward`.
    ///
    /// # Errors
    /// When the bytes are no return path; nothing after that is to be believed.
    pub fn push(&mut self, bytes: &[u8], forward: &mut Vec<u8>) -> Result<(), ReturnPathError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.shut.is_some() {
                return Err(ReturnPathError::AfterShut);
            }
            let wanted = match header(&self.partial)? {
                None => HEADER_BYTES,
                Some((_, body_bytes)) => HEADER_BYTES + body_bytes,
            };
            let take = rest.len().min(wanted - self.partial.len());
            self.partial.extend_from_slice(&rest[..take]);
            rest = &rest[take..];
            let Some((kind, body_bytes)) = header(&self.partial)? else {
                continue;
            };
            let Some(body) = self.partial[HEADER_BYTES..].get(..body_bytes) else {
                continue;
            };
            if kind == SHUT {
                let error = body
                    .iter()
                    .fold(0, |error, byte| error << 8 | u32::from(*byte));
                self.shut = Some(Shut { error });
            } else {
                forward.extend_from_slice(&self.partial);
            }
            self.partial.clear();
        }
        Ok(())
    }

    /// The verdict, once it has come.
    pub fn shut(&self) -> Option<Shut> {
        self.shut
    }
}

/// Type and body length of a message, once its header is there.
fn header(message: &[u8]) -> Result<Option<(u16, usize)>, ReturnPathError> {
    let Some(header) = message.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [kind_hi, kind_lo, length_hi, length_lo] = *header;
    let kind = u16::from_be_bytes([kind_hi, kind_lo]);
    let body_bytes = u16::from_be_bytes([length_hi, length_lo]);
    let length = usize::from(body_bytes);
    if kind == 0 || kind == RECV_BITMAP || kind > LAST_KNOWN {
        return Err(ReturnPathError::BadType(kind));
    }
    if length > MAX_BODY_BYTES || (kind == SHUT && length != 4) {
        return Err(ReturnPathError::BadLength { kind, body_bytes });
    }
    Ok(Some((kind, length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// PONG 1, SWITCHOVER_ACK and SHUT 0, as captured from QEMU 10.0.2.
    const CAPTURED: [u8; 20] = [
        0, 2, 0, 4, 0, 0, 0, 1, // PONG
        0, 7, 0, 0, // SWITCHOVER_ACK
        0, 1, 0, 4, 0, 0, 0, 0, // SHUT
    ];

    #[test]
    fn shut_is_held_however_the_bytes_are_split() {
        for split in 0..=CAPTURED.len() {
            let mut path = ReturnPath::default();
            let mut forward = Vec::new();
            path.push(&CAPTURED[..split], &mut forward).unwrap();
            assert_eq!(path.shut().is_some(), split == CAPTURED.len());
            path.push(&CAPTURED[split..], &mut forward).unwrap();
            assert_eq!(forward, CAPTURED[..12]);
            assert_eq!(path.shut(), Some(Shut { error: 0 }));
        }
        assert_eq!(CAPTURED[12..], SHUT_SUCCESS);
    }

    #[test]
    fn what_is_no_return_path_is_refused() {
        let push = |bytes: &[u8]| ReturnPath::default().push(bytes, &mut Vec::new());
        assert_eq!(push(&[0, 5, 0, 9]), Err(ReturnPathError::BadType(5)));
        assert_eq!(push(b"QEVM"), Err(ReturnPathError::BadType(0x5145)));
        assert_eq!(push(&[0, 0, 0, 0]), Err(ReturnPathError::BadType(0)));
        let long = ReturnPathError::BadLength {
            kind: 3,
            body_bytes: 513,
        };
        assert_eq!(push(&[0, 3, 2, 1]), Err(long));
        let short = ReturnPathError::BadLength {
            kind: 1,
            body_bytes: 0,
        };
        assert_eq!(push(&[0, 1, 0, 0]), Err(short));
        assert_eq!(
            push(&[SHUT_SUCCESS.as_slice(), &[0]].concat()),
            Err(ReturnPathError::AfterShut)
        );
    }

    /// A message that may pass, as its bytes.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![Just(2u16), Just(3), Just(4), Just(6), Just(7)];
        let body = proptest::collection::vec(any::<u8>(), 0..=MAX_BODY_BYTES);
        (kind, body).prop_map(|(kind, body)| {
            let mut bytes = kind.to_be_bytes().to_vec();
            bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&body);
            bytes
        })
    }

    proptest! {
        #[test]
        fn messages_pass_unchanged(
            messages in proptest::collection::vec(message(), 0..6),
            error in any::<u32>(),
            chunk in 1usize..40,
        ) {
            let all = messages.concat();
            let mut path = ReturnPath::default();
            let mut forward = Vec::new();
            let shut = [&[0, 1, 0, 4], error.to_be_bytes().as_slice()].concat();
            for bytes in [all.as_slice(), &shut].concat().chunks(chunk) {
                path.push(bytes, &mut forward).unwrap();
            }
            prop_assert_eq!(forward, all);
            prop_assert_eq!(path.shut(), Some(Shut { error }));
        }

        #[test]
        fn any_bytes_are_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut path = ReturnPath::default();
            let mut forward = Vec::new();
            let _refused = path.push(&bytes, &mut forward);
            prop_assert!(path.partial.len() <= HEADER_BYTES + MAX_BODY_BYTES);
            prop_assert!(forward.len() <= bytes.len());
        }
    }
}
