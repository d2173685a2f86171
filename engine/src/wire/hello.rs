//! The handshake: what each side says before the first page.
//!
//! The source's `Hello` describes the guest and what the source can do; the target answers
//! `Accept`, or `Refuse` with every reason it found. Each data connection begins with `Join`.

use super::bytes::{Cursor, put_text};
use super::fields::{self, once, required};
use super::{Encodings, OLDEST_VERSION, VERSION, WireError};
use crate::memory::{Layout, MAX_REGIONS, Region};
use crate::units::{ByteCount, PageCount};

/// Most data channels of a migration.
pub const MAX_CHANNELS: u16 = 64;

/// Most facts about a guest.
pub const MAX_FACTS: usize = 4096;

/// Most reasons in a refusal.
const MAX_REASONS: usize = 256;

/// Names one migration; chosen at random by the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SessionId(pub u128);

/// Something about the guest that must be the same on both sides: a machine type, a device.
///
/// The engine compares and reports facts, and knows nothing of their meaning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fact {
    /// What it is about, in words for people.
    pub name: String,
    /// How it is on this side.
    pub value: String,
}

impl Fact {
    /// A fact from its name and value.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
        }
    }
}

/// The source's opening: who it is, and what guest it wants to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest and newest protocol version the source speaks.
    pub versions: (u16, u16),
    /// The migration's name.
    pub session: SessionId,
    /// Data channels the source will open, `1..=MAX_CHANNELS`.
    pub channels: u16,
    /// Whether the digest of all memory is compared before the hand-over.
    pub verify: bool,
    /// Most fingerprints of the target's pages that the source takes, if it sends references at
    /// all.
    pub references: Option<u64>,
    /// The guest's memory.
    pub layout: Layout,
    /// What must be equal on both sides.
    pub facts: Vec<Fact>,
    /// Encodings that the source uses whatever the target says; [`Encodings::BASIC`] ones need
    /// not be among them.
    pub needs: Encodings,
}

/// The target's consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// The version to speak from now on.
    pub version: u16,
    /// Encodings that the target reads; references have terms of their own.
    pub reads: Encodings,
    /// How to make references, if the source asked and the target takes them.
    pub references: Option<ReferenceTerms>,
}

/// What the target says about references to its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReferenceTerms {
    /// Random; what is hashed is hashed with keys made from it.
    pub nonce: u128,
    /// Pages that the target's catalogue tells of, numbered from 0.
    pub kept_pages: u64,
}

/// The target's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// Every reason, each with its remedy, in words for people.
    pub reasons: Vec<String>,
}

/// The opening of a data connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// The migration it belongs to.
    pub session: SessionId,
    /// Its number, from 0.
    pub channel: u16,
}

mod tag {
    use super::fields;

    pub(super) const VERSIONS: u16 = 0x01;
    pub(super) const SESSION: u16 = 0x02;
    pub(super) const CHANNELS: u16 = 0x03;
    pub(super) const VERIFY: u16 = 0x04;
    pub(super) const REGION: u16 = 0x05;
    pub(super) const FACT: u16 = 0x06;
    pub(super) const REASON: u16 = 0x07;
    pub(super) const NEEDS: u16 = 0x08;
    pub(super) const READS: u16 = 0x09 | fields::OPTIONAL;
    /// May be skipped: then there are no references.
    pub(super) const REFERENCES: u16 = 0x0a | fields::OPTIONAL;
}

impl Hello {
    /// The body of the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        fields::put(&mut out, tag::VERSIONS, |out| {
            out.extend_from_slice(&self.versions.0.to_le_bytes());
            out.extend_from_slice(&self.versions.1.to_le_bytes());
        });
        put_session(&mut out, self.session);
        fields::put(&mut out, tag::CHANNELS, |out| {
            out.extend_from_slice(&self.channels.to_le_bytes());
        });
        fields::put(&mut out, tag::VERIFY, |out| out.push(u8::from(self.verify)));
        if let Some(most) = self.references {
            fields::put(&mut out, tag::REFERENCES, |out| {
                out.extend_from_slice(&most.to_le_bytes());
            });
        }
        for region in self.layout.regions() {
            fields::put(&mut out, tag::REGION, |out| {
                out.extend_from_slice(&region.pages.0.to_le_bytes());
                out.extend_from_slice(&region.backing_page.0.to_le_bytes());
                put_text(out, &region.name);
            });
        }
        for fact in &self.facts {
            fields::put(&mut out, tag::FACT, |out| {
                put_text(out, &fact.name);
                put_text(out, &fact.value);
            });
        }
        let needs = self.needs.beyond(Encodings::BASIC);
        if !needs.is_empty() {
            put_encodings(&mut out, tag::NEEDS, needs);
        }
        out
    }

    /// Reads the body of the frame.
    ///
    /// # Errors
    /// When it is malformed, or no version is spoken by both sides.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let (mut versions, mut session, mut channels, mut verify) = (None, None, None, None);
        let (mut regions, mut facts) = (Vec::new(), Vec::new());
        let (mut needs, mut references) = (None, None);
        fields::each(body, "hello", |tag, mut value| {
            match tag {
                tag::VERSIONS => once(&mut versions, (value.u16()?, value.u16()?), "versions")?,
                tag::SESSION => once(&mut session, SessionId(value.u128()?), "session")?,
                tag::CHANNELS => once(&mut channels, value.u16()?, "channel count")?,
                tag::VERIFY => once(&mut verify, boolean(value.u8()?, "verify")?, "verify")?,
                tag::REFERENCES => once(&mut references, value.u64()?, "references")?,
                tag::REGION => {
                    cap("regions", regions.len() + 1, MAX_REGIONS)?;
                    let pages = PageCount(value.u64()?);
                    let backing_page = ByteCount(value.u64()?);
                    let name = value.text("region name")?;
                    regions.push(Region {
                        name,
                        pages,
                        backing_page,
                    });
                    true
                }
                tag::FACT => {
                    cap("facts", facts.len() + 1, MAX_FACTS)?;
                    facts.push(Fact::new(value.text("fact")?, value.text("fact")?));
                    true
                }
                tag::NEEDS => once(&mut needs, Encodings(value.u32()?), "needed encodings")?,
                _ => return Ok(false),
            };
            value.finish().map(|()| true)
        })?;
        let channels = required(channels, "channel count")?;
        if channels == 0 || channels > MAX_CHANNELS {
            return Err(WireError::BadValue {
                what: "channel count",
                value: channels.into(),
            });
        }
        let layout = Layout::new(regions).map_err(|_| WireError::BadValue {
            what: "memory layout",
            value: 0,
        })?;
        Ok(Self {
            versions: required(versions, "versions")?,
            session: required(session, "session")?,
            channels,
            verify: required(verify, "verify")?,
            references,
            layout,
            facts,
            needs: needs.unwrap_or(Encodings::none()).beyond(Encodings::BASIC),
        })
    }

    /// The newest version that both sides speak.
    pub fn common_version(&self) -> Option<u16> {
        let newest = self.versions.1.min(VERSION);
        (newest >= self.versions.0.max(OLDEST_VERSION)).then_some(newest)
    }
}

impl Accept {
    /// The body of the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        fields::put(&mut out, tag::VERSIONS, |out| {
            out.extend_from_slice(&self.version.to_le_bytes());
        });
        if let Some(terms) = self.references {
            fields::put(&mut out, tag::REFERENCES, |out| {
                out.extend_from_slice(&terms.nonce.to_le_bytes());
                out.extend_from_slice(&terms.kept_pages.to_le_bytes());
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
        let (mut version, mut reads, mut references) = (None, None, None);
        fields::each(body, "accept", |tag, mut value| {
            match tag {
                tag::VERSIONS => once(&mut version, value.u16()?, "version")?,
                tag::READS => once(&mut reads, Encodings(value.u32()?), "readable encodings")?,
                tag::REFERENCES => {
                    let terms = ReferenceTerms {
                        nonce: value.u128()?,
                        kept_pages: value.u64()?,
                    };
                    once(&mut references, terms, "references")?
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
            references,
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
            cap("reasons", reasons.len() + 1, MAX_REASONS)?;
            reasons.push(value.text("reason")?);
            value.finish().map(|()| true)
        })?;
        Ok(Self { reasons })
    }
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

fn put_session(out: &mut Vec<u8>, session: SessionId) {
    fields::put(out, tag::SESSION, |out| {
        out.extend_from_slice(&session.0.to_le_bytes());
    });
}

fn put_encodings(out: &mut Vec<u8>, tag: u16, encodings: Encodings) {
    fields::put(out, tag, |out| {
        out.extend_from_slice(&encodings.0.to_le_bytes());
    });
}

/// A byte that must be 0 or 1.
fn boolean(value: u8, what: &'static str) -> Result<bool, WireError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(WireError::BadValue {
            what,
            value: value.into(),
        }),
    }
}

fn cap(what: &'static str, count: usize, most: usize) -> Result<(), WireError> {
    if count > most {
        return Err(WireError::TooLarge {
            what,
            value: count as u64,
            cap: most as u64,
        });
    }
    Ok(())
}

/// Reads the session that a reattaching source names.
pub(super) fn decode_session(body: &[u8]) -> Result<SessionId, WireError> {
    let mut cursor = Cursor::new(body, "reattach");
    let session = SessionId(cursor.u128()?);
    cursor.finish()?;
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        let region = |name: &str, pages| Region {
            name: name.into(),
            pages: PageCount(pages),
            backing_page: ByteCount(4096),
        };
        Hello {
            versions: (OLDEST_VERSION, VERSION),
            session: SessionId(0x1234 << 100),
            channels: 2,
            verify: true,
            references: Some(1000),
            layout: Layout::new(vec![region("pc.ram", 7), region("dimm0", 9)]).unwrap(),
            facts: vec![Fact::new("machine type", "pc-q35-10.0")],
            needs: Encodings::none(),
        }
    }

    #[test]
    fn a_handshake_reads_back_as_written() {
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
        let without = Hello {
            references: None,
            ..hello()
        };
        assert_eq!(Hello::decode(&without.encode()), Ok(without));
        let terms = ReferenceTerms {
            nonce: 5 << 100,
            kept_pages: 99,
        };
        for references in [None, Some(terms)] {
            let accept = Accept {
                version: VERSION,
                reads: Encodings::readable(),
                references,
            };
            assert_eq!(Accept::decode(&accept.encode()), Ok(accept));
        }
        let needs = Hello {
            needs: Encodings::readable().beyond(Encodings::BASIC),
            ..hello()
        };
        assert_eq!(Hello::decode(&needs.encode()), Ok(needs));
        let refuse = Refuse {
            reasons: vec!["one".into(), "two".into()],
        };
        assert_eq!(Refuse::decode(&refuse.encode()), Ok(refuse));
        let join = Join {
            session: SessionId(9),
            channel: 3,
        };
        assert_eq!(Join::decode(&join.encode()), Ok(join));
    }

    #[test]
    fn a_newer_peer_may_add_optional_fields_but_not_mandatory_ones() {
        let mut body = hello().encode();
        fields::put(&mut body, 0x70 | fields::OPTIONAL, |out| {
            out.extend_from_slice(b"new");
        });
        assert_eq!(Hello::decode(&body), Ok(hello()));
        fields::put(&mut body, 0x70, |out| {
            out.extend_from_slice(b"new");
        });
        let error = WireError::UnknownField {
            message: "hello",
            tag: 0x70,
        };
        assert_eq!(Hello::decode(&body), Err(error));
    }

    #[test]
    fn a_target_that_does_not_say_what_it_reads_reads_the_basic_encodings() {
        let mut body = Vec::new();
        fields::put(&mut body, tag::VERSIONS, |out| {
            out.extend_from_slice(&VERSION.to_le_bytes());
        });
        assert_eq!(Accept::decode(&body).unwrap().reads, Encodings::BASIC);
    }

    #[test]
    fn the_newest_common_version_is_chosen() {
        let speaks = |versions| {
            Hello {
                versions,
                ..hello()
            }
            .common_version()
        };
        assert_eq!(speaks((1, 9)), Some(VERSION));
        assert_eq!(speaks((VERSION + 1, VERSION + 2)), None);
    }

    proptest! {
        #[test]
        fn no_input_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Hello::decode(&body);
            let _ = Accept::decode(&body);
            let _ = Refuse::decode(&body);
            let _ = Join::decode(&body);
        }

        #[test]
        fn a_damaged_hello_never_panics(at in 0usize..150, to in any::<u8>()) {
            let mut body = hello().encode();
            let index = at % body.len();
            body[index] = to;
            let _ = Hello::decode(&body);
        }
    }
}
