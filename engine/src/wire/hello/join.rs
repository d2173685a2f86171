//! The opening of a further connection of a migration, for data or in the place of a lost control
//! connection: which migration, and a proof that it belongs there.

use super::{SessionId, put_session, tag};
use crate::transport::BindingProof;
use crate::wire::WireError;
use crate::wire::bytes::Cursor;
use crate::wire::fields::{self, once, required};

/// The opening of a data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// The migration it belongs to.
    pub session: SessionId,
    /// Its number, from 0.
    pub channel: u16,
    /// That the source of the migration opens it, where the transport authenticates.
    pub proof: Option<BindingProof>,
}

/// The opening of a control connection that takes the place of a lost one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reattach {
    /// The migration it belongs to.
    pub session: SessionId,
    /// As that of [`Join`].
    pub proof: Option<BindingProof>,
}

impl Join {
    /// The body of the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_session(&mut out, self.session);
        fields::put(&mut out, tag::CHANNELS, |out| {
            out.extend_from_slice(&self.channel.to_le_bytes());
        });
        if let Some(proof) = &self.proof {
            fields::put(&mut out, tag::PROOF, |out| out.extend_from_slice(proof));
        }
        out
    }

    /// Reads the body of the frame.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let (mut session, mut channel, mut proof) = (None, None, None);
        fields::each(body, "join", |tag, mut value| {
            match tag {
                tag::SESSION => once(&mut session, SessionId(value.u128()?), "session")?,
                tag::CHANNELS => once(&mut channel, value.u16()?, "channel")?,
                tag::PROOF => once(&mut proof, value.array()?, "proof")?,
                _ => return Ok(false),
            };
            value.finish().map(|()| true)
        })?;
        Ok(Self {
            session: required(session, "session")?,
            channel: required(channel, "channel")?,
            proof,
        })
    }
}

impl Reattach {
    /// Appends the body of the frame.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.session.0.to_le_bytes());
        out.extend(self.proof.iter().flatten());
    }

    /// Reads the body of the frame.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body, "reattach");
        let session = SessionId(cursor.u128()?);
        let proof = match cursor.is_empty() {
            true => None,
            false => Some(cursor.array()?),
        };
        cursor.finish()?;
        Ok(Self { session, proof })
    }
}
