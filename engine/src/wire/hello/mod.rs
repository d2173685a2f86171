//! The handshake: what each side says before the first page.
//!
//! The source's `Hello` describes the guest and what the source can do; the target answers
//! `Accept`, or `Refuse` with every reason it found ([`answer`]). Each data connection begins with
//! `Join` ([`join`]). Those are [fields](super::fields), so that they can grow.

mod answer;
mod files;
mod join;
#[cfg(test)]
mod tests;

pub use answer::{Accept, DedupTerms, Refuse};
pub use join::{Join, Reattach};

use super::bytes::{cap, put_text};
use super::fields::{self, once, required};
use super::{Encodings, OLDEST_VERSION, VERSION, WireError};
use crate::memory::{FileIdentity, Layout, MAX_REGIONS, Region};
use crate::units::{ByteCount, PageCount};

/// Most data channels of a migration.
pub const MAX_CHANNELS: u16 = 64;

/// Most properties of a guest.
pub const MAX_PROPERTIES: usize = 4096;

/// Names one migration; chosen at random by the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SessionId(pub u128);

/// As 32 hexadecimal digits.
impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Something about the guest that must be the same on both sides: a machine type, a device.
///
/// The engine compares and reports properties, and knows nothing of their meaning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestProperty {
    /// What it is about, in words for people.
    pub name: String,
    /// How it is on this side.
    pub value: String,
    /// How it is compared.
    pub kind: PropertyKind,
}

/// How a property is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PropertyKind {
    /// Both sides must have it, with the same value.
    Required,
    /// One of the details of a machine. Where both sides give details, both must have this one.
    ///
    /// Each line of the value is an entry. Those of the form `key=value` must be equal where both
    /// sides have the key, since another version of a hypervisor may know other keys; all others
    /// must be on both sides.
    Detail,
}

impl GuestProperty {
    /// A property that both sides must have, from its name and value.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
            kind: PropertyKind::Required,
        }
    }

    /// A [detail](PropertyKind::Detail), from its name and its entries, none of which may hold a
    /// line break.
    pub fn detail<E: AsRef<str>>(
        name: impl Into<String>,
        entries: impl IntoIterator<Item = E>,
    ) -> Self {
        let mut value = String::new();
        for entry in entries {
            if !value.is_empty() {
                value.push('\n');
            }
            value.push_str(entry.as_ref());
        }
        Self {
            name: name.into(),
            value,
            kind: PropertyKind::Detail,
        }
    }

    /// Its field in a `Hello`.
    fn tag(&self) -> u16 {
        match self.kind {
            PropertyKind::Required => tag::PROPERTY,
            PropertyKind::Detail => tag::DETAIL,
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
    pub dedup: Option<u64>,
    /// The guest's memory.
    pub layout: Layout,
    /// The files that the memory lies in; none if it lies in no files, or the source is of a build
    /// that does not say.
    pub files: Vec<FileIdentity>,
    /// Files that the guest keeps data in, by the names that both sides know them by. They are not
    /// sent.
    pub persistent: Vec<(String, FileIdentity)>,
    /// What must be equal on both sides.
    pub properties: Vec<GuestProperty>,
    /// Encodings that the source uses whatever the target says; [`Encodings::BASIC`] ones need
    /// not be among them.
    pub needs: Encodings,
}

/// Tags of the fields, over all messages of the handshake.
mod tag {
    use super::fields;

    pub(super) const VERSIONS: u16 = 0x01;
    pub(super) const SESSION: u16 = 0x02;
    pub(super) const CHANNELS: u16 = 0x03;
    pub(super) const VERIFY: u16 = 0x04;
    pub(super) const REGION: u16 = 0x05;
    pub(super) const PROPERTY: u16 = 0x06;
    pub(super) const REASON: u16 = 0x07;
    pub(super) const NEEDS: u16 = 0x08;
    pub(super) const READS: u16 = 0x09 | fields::OPTIONAL;
    /// May be skipped: then there are no references.
    pub(super) const DEDUP: u16 = 0x0a | fields::OPTIONAL;
    /// May be skipped: then files are not compared.
    pub(super) const FILE: u16 = 0x0b | fields::OPTIONAL;
    /// May be skipped: a target that does not know it has these files in its layout, and refuses.
    pub(super) const PERSISTENT: u16 = 0x0d | fields::OPTIONAL;
    /// May be skipped: then details are not compared.
    pub(super) const DETAIL: u16 = 0x0c | fields::OPTIONAL;
    pub(super) const PROOF: u16 = 0x0d;
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
        if let Some(most) = self.dedup {
            fields::put(&mut out, tag::DEDUP, |out| {
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
        files::put_fields(&mut out, self);
        for property in &self.properties {
            fields::put(&mut out, property.tag(), |out| {
                put_text(out, &property.name);
                put_text(out, &property.value);
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
        let (mut regions, mut properties) = (Vec::new(), Vec::new());
        let (mut needs, mut dedup) = (None, None);
        let (mut files, mut persistent) = (Vec::new(), Vec::new());
        fields::each(body, "hello", |tag, mut value| {
            match tag {
                tag::VERSIONS => once(&mut versions, (value.u16()?, value.u16()?), "versions")?,
                tag::SESSION => once(&mut session, SessionId(value.u128()?), "session")?,
                tag::CHANNELS => once(&mut channels, value.u16()?, "channel count")?,
                tag::VERIFY => once(&mut verify, value.boolean("verify")?, "verify")?,
                tag::DEDUP => once(&mut dedup, value.u64()?, "references")?,
                tag::REGION => {
                    cap("regions", regions.len() as u64 + 1, MAX_REGIONS as u64)?;
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
                tag::FILE => files::push(&mut files, files::take(&mut value)?)?,
                tag::PERSISTENT => {
                    let file = files::take(&mut value)?;
                    let name = value.text("persistent file")?;
                    files::push(&mut persistent, (name, file))?
                }
                tag::PROPERTY | tag::DETAIL => {
                    cap(
                        "properties",
                        properties.len() as u64 + 1,
                        MAX_PROPERTIES as u64,
                    )?;
                    properties.push(GuestProperty {
                        name: value.text("property")?,
                        value: value.text("property")?,
                        kind: match tag {
                            tag::PROPERTY => PropertyKind::Required,
                            _ => PropertyKind::Detail,
                        },
                    });
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
            dedup,
            layout,
            files,
            persistent,
            properties,
            needs: needs.unwrap_or(Encodings::none()).beyond(Encodings::BASIC),
        })
    }

    /// The newest version that both sides speak.
    pub fn common_version(&self) -> Option<u16> {
        let newest = self.versions.1.min(VERSION);
        (newest >= self.versions.0.max(OLDEST_VERSION)).then_some(newest)
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
