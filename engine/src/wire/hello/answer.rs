//! The target's answer to a `Hello`: `Accept` or `Refuse`.

use super::{put_encodings, tag};
use crate::wire::bytes::{cap, put_text};
use crate::wire::fields::{self, once, required};
use crate::wire::{Encodings, OLDEST_VERSION, VERSION, WireError};

/// Most reasons in a refusal.
const MAX_REASONS: usize = 256;

/// The target's consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// The version to speak from now on.
    pub version: u16,
    /// Encodings that the target reads; references have terms of their own.
    pub reads: Encodings,
    /// How to make references, if the source asked and the target takes them.
    pub dedup: Option<DedupTerms>,
}

/// What the target says about references to its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupTerms {
    /// Random; what is hashed is hashed with keys made from it.
    pub nonce: u128,
    /// Base pages of the target, numbered from 0.
    pub base_pages: u64,
}

/// The target's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// Every reason, each with its remedy, in words for people.
    pub reasons: Vec<String>,
}

impl Accept {
    /// The body of the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        fields::put(&mut out, tag::VERSIONS, |out| {
            out.extend_from_slice(&self.version.to_le_bytes());
        });
        if let Some(terms) = self.dedup {
            fields::put(&mut out, tag::DEDUP, |out| {
                out.extend_from_slice(&terms.nonce.to_le_bytes());
                out.extend_from_slice(&terms.base_pages.to_le_bytes());
            });
        }
        put_encodings(&mut out, tag::READS, self.reads);
        out
    }

    /// Reads the body of the frame.
    ///
    /// # Errors
    /// When it is malformed or names a version this side does not speak.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let (mut version, mut reads, mut dedup) = (None, None, None);
        fields::each(body, "accept", |tag, mut value| {
            match tag {
                tag::VERSIONS => once(&mut version, value.u16()?, "version")?,
                tag::READS => once(&mut reads, Encodings(value.u32()?), "readable encodings")?,
                tag::DEDUP => {
                    let terms = DedupTerms {
                        nonce: value.u128()?,
                        base_pages: value.u64()?,
                    };
                    once(&mut dedup, terms, "references")?
                }
                _ => return Ok(false),
            };
            value.finish().map(|()| true)
        })?;
        let version = required(version, "version")?;
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(WireError::BadValue {
                what: "protocol version",
                value: version.into(),
            });
        }
        Ok(Self {
            version,
            // A target that says nothing is of a build that knew no others.
            reads: reads.unwrap_or(Encodings::BASIC),
            dedup,
        })
    }
}

impl Refuse {
    /// The body of the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for reason in self.reasons.iter().take(MAX_REASONS) {
            fields::put(&mut out, tag::REASON, |out| put_text(out, reason));
        }
        out
    }

    /// Reads the body of the frame.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut reasons = Vec::new();
        fields::each(body, "refuse", |tag, mut value| {
            if tag != tag::REASON {
                return Ok(false);
            }
            cap("reasons", reasons.len() as u64 + 1, MAX_REASONS as u64)?;
            reasons.push(value.text("reason")?);
            value.finish().map(|()| true)
        })?;
        Ok(Self { reasons })
    }
}
