//! Messages of the control connection: every frame that is not pages of the guest.

use super::bytes::{Cursor, put_text};
use super::fingerprints::{self, FingerprintChunk};
use super::{Accept, FrameType, Hello, Join, Reattach, Refuse, WireError, marks};
use crate::memory::Mark;
use crate::units::PageRange;

/// A message, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Accept`].
    Accept(Accept),
    /// See [`Refuse`].
    Refuse(Refuse),
    /// See [`Join`].
    Join(Join),
    /// The target, which cannot tell whether its files are the source's, has written these into them
    /// and asks whether they show there. Comes before `Accept`, and only if the `Hello` named files.
    Marks(Vec<Mark>),
    /// The first of these that shows, by its place in the list.
    MarkShows(Option<u16>),
    /// All pages of `round` that this data channel carries have been sent.
    RoundEnd {
        /// The round that ended.
        round: u32,
    },
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Waited`].
    Waited(Waited),
    /// No round follows `round`, whose pages may still be under way.
    LastRound {
        /// The last round.
        round: u32,
    },
    /// All rounds are in the target's memory.
    Complete {
        /// Digest of the target's memory, if the handshake asked for it.
        digest: Option<u128>,
    },
    /// See [`FingerprintChunk`].
    Fingerprints(FingerprintChunk),
    /// Pages of the guest that the target does not have where the references said that were sent
    /// for them. They are to be sent again, whole. Comes before the acknowledgement of the frame
    /// they were in.
    Missing(Vec<PageRange>),
    /// A piece of the guest's device state (to the target), or of the answers to it.
    State(StateChunk),
    /// The target has everything and could run the guest.
    Ready,
    /// The source has relinquished the guest, for good.
    HandOver,
    /// The guest runs on the target.
    Running {
        /// CPU time that the target's process has used, in microseconds.
        cpu_us: u64,
    },
    /// The source asks where a hand-over stands whose connection was lost.
    Reattach(Reattach),
    /// The source knows that the guest runs on the target, and will not ask any more.
    Settled,
    /// The migration ends here.
    Abort {
        /// What kind of reason.
        code: AbortCode,
        /// The reason in words.
        reason: String,
    },
    /// Asks for a [`Message::Pong`].
    Ping,
    /// MissingPages a [`Message::Ping`].
    Pong,
}

/// What the target has placed of one data channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The channel.
    pub channel: u16,
    /// Frames of it, from its first on, whose pages are in the target's memory.
    pub frames: u64,
    /// Bytes those frames took on the wire.
    pub bytes: u64,
}

/// How long one data channel of the target has waited for something to do, of the time since it
/// placed its first frame: for data, or for other channels to end the round. One that hardly waits
/// is what holds the migration up. A source that does not know this message skips it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// The channel.
    pub channel: u16,
    /// Time that it waited, in microseconds.
    pub waited_us: u64,
    /// Time since its first frame, in microseconds.
    pub elapsed_us: u64,
}

/// A piece of a stream of opaque bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChunk {
    /// Whether no piece follows.
    pub last: bool,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Why a migration was ended by the other side; stable across versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum AbortCode {
    /// Somebody asked for it.
    Cancelled = 1,
    /// The guest, its hypervisor or its memory failed on that side.
    Guest = 2,
    /// What this side sent made no sense there.
    Protocol = 3,
    /// The digests of the memories differ.
    Digest = 4,
    /// It did not converge, or took too long.
    NotConverging = 5,
    /// Anything else.
    Other = 6,
    /// The guest's process has ended on the source: the guest does not run anywhere.
    GuestEnded = 7,
}

impl AbortCode {
    fn from_wire(value: u16) -> Self {
        match value {
            1 => Self::Cancelled,
            2 => Self::Guest,
            3 => Self::Protocol,
            4 => Self::Digest,
            5 => Self::NotConverging,
            7 => Self::GuestEnded,
            _ => Self::Other,
        }
    }
}

impl Message {
    /// The type of the frame that carries it.
    pub fn kind(&self) -> FrameType {
        match self {
            Self::Hello(_) => FrameType::Hello,
            Self::Accept(_) => FrameType::Accept,
            Self::Refuse(_) => FrameType::Refuse,
            Self::Join(_) => FrameType::Join,
            Self::Marks(_) => FrameType::Marks,
            Self::MarkShows(_) => FrameType::MarkShows,
            Self::RoundEnd { .. } => FrameType::RoundEnd,
            Self::Ack(_) => FrameType::Ack,
            Self::Waited(_) => FrameType::Waited,
            Self::LastRound { .. } => FrameType::LastRound,
            Self::Complete { .. } => FrameType::Complete,
            Self::Fingerprints(_) => FrameType::Fingerprints,
            Self::Missing(_) => FrameType::Missing,
            Self::State(_) => FrameType::State,
            Self::Ready => FrameType::Ready,
            Self::HandOver => FrameType::HandOver,
            Self::Running { .. } => FrameType::Running,
            Self::Reattach(_) => FrameType::Reattach,
            Self::Settled => FrameType::Settled,
            Self::Abort { .. } => FrameType::Abort,
            Self::Ping => FrameType::Ping,
            Self::Pong => FrameType::Pong,
        }
    }

    /// The body of the frame that carries it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// Puts the body of the frame that carries it in the place of what `out` holds. Those that
    /// go with pages allocate nothing if there is room.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Hello(hello) => *out = hello.encode(),
            Self::Accept(accept) => *out = accept.encode(),
            Self::Refuse(refuse) => *out = refuse.encode(),
            Self::Join(join) => *out = join.encode(),
            Self::Marks(list) => *out = marks::encode(list),
            Self::MarkShows(mark) => {
                if let Some(mark) = mark {
                    out.extend_from_slice(&mark.to_le_bytes());
                }
            }
            Self::Fingerprints(chunk) => *out = chunk.encode(),
            Self::Missing(pages) => *out = fingerprints::encode_missing(pages),
            Self::RoundEnd { round } | Self::LastRound { round } => {
                out.extend_from_slice(&round.to_le_bytes());
            }
            Self::Ack(ack) => {
                out.extend_from_slice(&ack.channel.to_le_bytes());
                out.extend_from_slice(&ack.frames.to_le_bytes());
                out.extend_from_slice(&ack.bytes.to_le_bytes());
            }
            Self::Waited(waited) => {
                out.extend_from_slice(&waited.channel.to_le_bytes());
                out.extend_from_slice(&waited.waited_us.to_le_bytes());
                out.extend_from_slice(&waited.elapsed_us.to_le_bytes());
            }
            Self::Complete { digest } => {
                if let Some(digest) = digest {
                    out.extend_from_slice(&digest.to_le_bytes());
                }
            }
            Self::State(chunk) => {
                out.push(u8::from(chunk.last));
                out.extend_from_slice(&chunk.bytes);
            }
            Self::Running { cpu_us } => out.extend_from_slice(&cpu_us.to_le_bytes()),
            Self::Reattach(reattach) => reattach.encode_into(out),
            Self::Abort { code, reason } => {
                out.extend_from_slice(&(*code as u16).to_le_bytes());
                put_text(out, reason);
            }
            Self::Ready | Self::HandOver | Self::Settled | Self::Ping | Self::Pong => {}
        }
    }

    /// Reads the body of a frame of type `kind`.
    ///
    /// # Errors
    /// When the body is malformed, or the frame carries pages.
    pub fn decode(kind: FrameType, body: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body, "message");
        let message = match kind {
            FrameType::Hello => return Hello::decode(body).map(Self::Hello),
            FrameType::Accept => return Accept::decode(body).map(Self::Accept),
            FrameType::Refuse => return Refuse::decode(body).map(Self::Refuse),
            FrameType::Join => return Join::decode(body).map(Self::Join),
            FrameType::Fingerprints => {
                return FingerprintChunk::decode(body).map(Self::Fingerprints);
            }
            FrameType::Marks => return marks::decode(body).map(Self::Marks),
            FrameType::MarkShows if cursor.is_empty() => Self::MarkShows(None),
            FrameType::MarkShows => Self::MarkShows(Some(cursor.u16()?)),
            FrameType::Missing => return fingerprints::decode_missing(body).map(Self::Missing),
            FrameType::Reattach => return Reattach::decode(body).map(Self::Reattach),
            FrameType::Pages => {
                return Err(WireError::BadValue {
                    what: "message type",
                    value: kind as u64,
                });
            }
            FrameType::RoundEnd => Self::RoundEnd {
                round: cursor.u32()?,
            },
            FrameType::LastRound => Self::LastRound {
                round: cursor.u32()?,
            },
            FrameType::Ack => Self::Ack(Ack {
                channel: cursor.u16()?,
                frames: cursor.u64()?,
                bytes: cursor.u64()?,
            }),
            FrameType::Waited => Self::Waited(Waited {
                channel: cursor.u16()?,
                waited_us: cursor.u64()?,
                elapsed_us: cursor.u64()?,
            }),
            FrameType::Complete if cursor.is_empty() => Self::Complete { digest: None },
            FrameType::Complete => Self::Complete {
                digest: Some(cursor.u128()?),
            },
            FrameType::State => Self::State(StateChunk {
                last: cursor.boolean("end of state")?,
                bytes: cursor.rest().to_vec(),
            }),
            FrameType::Ready => Self::Ready,
            FrameType::HandOver => Self::HandOver,
            FrameType::Settled => Self::Settled,
            FrameType::Running => Self::Running {
                cpu_us: cursor.u64()?,
            },
            FrameType::Abort => {
                let code = AbortCode::from_wire(cursor.u16()?);
                Self::Abort {
                    code,
                    reason: cursor.text("reason")?,
                }
            }
            FrameType::Ping => Self::Ping,
            FrameType::Pong => Self::Pong,
        };
        cursor.finish()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::SessionId;
    use proptest::prelude::*;

    #[test]
    fn messages_read_back_as_written() {
        let messages = [
            Message::Marks(vec![Mark {
                offset: 4096,
                word: 7,
            }]),
            Message::MarkShows(None),
            Message::MarkShows(Some(3)),
            Message::RoundEnd { round: 3 },
            Message::LastRound { round: u32::MAX },
            Message::Ack(Ack {
                channel: 1,
                frames: 2,
                bytes: 3,
            }),
            Message::Waited(Waited {
                channel: 4,
                waited_us: 5,
                elapsed_us: u64::MAX,
            }),
            Message::Complete { digest: None },
            Message::Complete {
                digest: Some(u128::MAX - 1),
            },
            Message::Fingerprints(FingerprintChunk {
                first: 7,
                fingerprints: vec![1, 0, u64::MAX],
            }),
            Message::Missing(vec![PageRange::new(3, 2), PageRange::new(9, 1)]),
            Message::State(StateChunk {
                last: true,
                bytes: b"state".to_vec(),
            }),
            Message::Ready,
            Message::HandOver,
            Message::Running { cpu_us: 5 },
            Message::Reattach(Reattach {
                session: SessionId(7),
                proof: None,
            }),
            Message::Settled,
            Message::Abort {
                code: AbortCode::Guest,
                reason: "disk full".into(),
            },
            Message::Ping,
            Message::Pong,
        ];
        for message in messages {
            assert_eq!(
                Message::decode(message.kind(), &message.encode()),
                Ok(message)
            );
        }
    }

    #[test]
    fn bytes_after_a_message_are_refused() {
        let error = Message::decode(FrameType::Ready, &[0]).unwrap_err();
        assert_eq!(
            error,
            WireError::TrailingBytes {
                what: "message",
                count: 1
            }
        );
    }

    proptest! {
        #[test]
        fn no_input_panics(body in prop::collection::vec(any::<u8>(), 0..64)) {
            use FrameType::{
                Abort, Ack, Fingerprints, Complete, LastRound, MarkShows, Marks, Missing, Pages,
                Reattach, RoundEnd, State, Waited,
            };
            for kind in [
                Abort, Ack, Fingerprints, Complete, LastRound, MarkShows, Marks, Missing, Pages,
                Reattach, RoundEnd, State, Waited,
            ] {
                let _ = Message::decode(kind, &body);
            }
        }
    }
}
