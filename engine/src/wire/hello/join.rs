//! The opening of a data connection: which migration, and which of its channels.

use super::{SessionId, put_session, tag};
use crate::wire::WireError;
use crate::wire::fields::{self, once, required};

/// The opening of a data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// The migration it belongs to.
    pub session: SessionId,
    /// Its number, from 0.
    pub channel: u16,
}

impl Join {
    /// The body of the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_session(&mut out, self.session);
        fields::put(&mut out, tag::CHANNELS, |out| {
            out.extend_from_slice(&self.channel.to_le_bytes());
        });
        out
    }

    /// Reads the body of the frame.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let (mut session, mut channel) = (None, None);
        fields::each(body, "join", |tag, mut value| {
            match tag {
                tag::SESSION => once(&mut session, SessionId(value.u128()?), "session")?,
                tag::CHANNELS => once(&mut channel, value.u16()?, "channel")?,
                _ => return Ok(false),
            };
            value.finish().map(|()| true)
        })?;
        Ok(Self {
            session: required(session, "session")?,
            channel: required(channel, "channel")?,
        })
    }
}
