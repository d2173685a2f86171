//! One message: a header of six words, and a body.

use crate::calls::Procedure;
use crate::declare::numbers;
use crate::error::Error;
use crate::events::Event;
use crate::xdr::{Input, Malformed, Xdr};

/// The program whose procedures manage guests.
pub const REMOTE_PROGRAM: u32 = 0x2000_8086;
/// The program by which each side finds out whether the other is alive.
pub const KEEPALIVE_PROGRAM: u32 = 0x6b65_6570;
/// The version of both.
pub const PROGRAM_VERSION: u32 = 1;

/// Length and header, in bytes.
pub const HEADER_BYTES: usize = 28;
/// The longest message with its length, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 + (32 << 20);

/// "Are you alive?", in the keepalive program.
pub const PING: i32 = 1;
/// "I am", in the keepalive program.
pub const PONG: i32 = 2;

numbers! {
    /// What a message is.
    Kind {
        /// A procedure is called.
        Call = 0,
        /// It is answered.
        Reply = 1,
        /// An event, or keepalive.
        Message = 2,
        /// A piece of a stream.
        Stream = 3,
        /// A call that comes with file descriptors.
        CallWithFds = 4,
        /// A reply that comes with file descriptors.
        ReplyWithFds = 5,
        /// A hole in a stream.
        StreamHole = 6,
    }
}

numbers! {
    /// How it went.
    Status {
        /// Well; the end of a stream.
        Ok = 0,
        /// The body is an [`Error`].
        Error = 1,
        /// More of the stream follows.
        Continue = 2,
    }
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The program.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// The procedure.
    pub procedure: i32,
    /// What the message is.
    pub kind: Kind,
    /// The number of the call; 0 for events.
    pub serial: u32,
    /// How the call went; [`Status::Ok`] for calls.
    pub status: Status,
}

impl Xdr for Header {
    fn put(&self, out: &mut Vec<u8>) {
        self.program.put(out);
        self.version.put(out);
        self.procedure.put(out);
        self.kind.put(out);
        self.serial.put(out);
        self.status.put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            program: Xdr::take(input)?,
            version: Xdr::take(input)?,
            procedure: Xdr::take(input)?,
            kind: Xdr::take(input)?,
            serial: Xdr::take(input)?,
            status: Xdr::take(input)?,
        })
    }
}

/// A message is longer than [`MAX_MESSAGE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes; {MAX_MESSAGE_BYTES} are the most")]
pub struct TooLong(pub usize);

/// A message whose body is not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is, and of what.
    pub header: Header,
    /// The body.
    pub body: Vec<u8>,
}

impl Message {
    fn new(header: Header, body: &impl Xdr) -> Self {
        let mut bytes = Vec::new();
        body.put(&mut bytes);
        let body = bytes;
        Self { header, body }
    }

    const fn of(procedure: i32, kind: Kind, serial: u32, status: Status) -> Header {
        Header {
            program: REMOTE_PROGRAM,
            version: PROGRAM_VERSION,
            procedure,
            kind,
            serial,
            status,
        }
    }

    /// A call of `P`.
    pub fn call<P: Procedure>(serial: u32, args: &P::Args) -> Self {
        Self::new(Self::of(P::NUMBER, Kind::Call, serial, Status::Ok), args)
    }

    /// An event.
    pub fn event<E: Event>(event: &E) -> Self {
        Self::new(Self::of(E::NUMBER, Kind::Message, 0, Status::Ok), event)
    }

    /// [`PING`] or [`PONG`].
    pub fn keepalive(procedure: i32) -> Self {
        let header = Header {
            program: KEEPALIVE_PROGRAM,
            ..Self::of(procedure, Kind::Message, 0, Status::Ok)
        };
        Self::new(header, &())
    }

    /// The answer to the call `to`.
    pub fn reply(to: &Header, reply: &impl Xdr) -> Self {
        let (kind, status) = (Kind::Reply, Status::Ok);
        Self::new(
            Header {
                kind,
                status,
                ..*to
            },
            reply,
        )
    }

    /// The answer that the call `to` failed.
    pub fn failure(to: &Header, error: &Error) -> Self {
        let (kind, status) = (Kind::Reply, Status::Error);
        Self::new(
            Header {
                kind,
                status,
                ..*to
            },
            error,
        )
    }

    /// The body as a value; what follows the value is not looked at.
    ///
    /// # Errors
    /// When it does not begin with a `T`.
    pub fn decode<T: Xdr>(&self) -> Result<T, Malformed> {
        T::take(&mut Input::new(&self.body))
    }

    /// The bytes that go over the connection.
    ///
    /// # Errors
    /// When there are too many.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let length = HEADER_BYTES + self.body.len();
        let word = u32::try_from(length).ok();
        let word = word.filter(|_| length <= MAX_MESSAGE_BYTES);
        let mut out = Vec::with_capacity(length.min(MAX_MESSAGE_BYTES));
        word.ok_or(TooLong(length))?.put(&mut out);
        self.header.put(&mut out);
        out.extend_from_slice(&self.body);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_twenty_eight_bytes() {
        let bytes = Message::keepalive(PING).encode().unwrap();
        let words = [28, 0x6b65_6570, 1, 1, 2, 0, 0_u32];
        assert_eq!(bytes, words.map(u32::to_be_bytes).concat());
    }

    #[test]
    fn the_longest_message() {
        let mut message = Message::keepalive(PING);
        message.body = vec![0; MAX_MESSAGE_BYTES - HEADER_BYTES];
        assert_eq!(message.encode().unwrap().len(), MAX_MESSAGE_BYTES);
        message.body.push(0);
        assert_eq!(message.encode(), Err(TooLong(MAX_MESSAGE_BYTES + 1)));
    }
}
