//! What the two sides of a migration tell each other, each time the client goes from one to the other.
//!
//! A cookie is a text of XML and a zero byte; the client carries it unread. Elements that a side does
//! not know are passed over, which is how both libvirt and this daemon can add to it ([`Extension`]).
//! What the other side *must* understand is announced by a [`Feature`].

mod extension;
mod feature;
mod read;
mod statistics;
pub mod vz;
mod write;

#[cfg(test)]
mod tests;

pub use extension::{Engine, Extension};
pub use feature::Feature;
pub use read::{Arrival, Phase};
pub use statistics::{STATISTICS, Statistics};

use crate::domain::{Cpu, Domain, Uuid};

/// What one side tells the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// The guest, and who speaks.
    pub identity: Identity,
    /// What the other side must understand.
    pub features: Vec<Feature>,
    /// What the target is to define, after Perform.
    pub persistent: Option<Box<Domain>>,
    /// Disks that are copied.
    pub nbd: Option<Nbd>,
    /// What the migration has done, after Perform.
    pub statistics: Option<Statistics>,
    /// The processor that the guest has on the source.
    pub cpu: Option<Cpu>,
    /// What this side's QEMU can do in a migration. Empty if it says nothing of it.
    pub capabilities: Vec<Capability>,
    /// What two daemons of pagelift tell each other.
    pub extension: Option<Extension>,
}

/// The guest, and who speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The guest's name on the source, also where it gets another on the target.
    pub name: String,
    /// The guest's uuid.
    pub uuid: Uuid,
    /// The name of the host that speaks.
    pub hostname: String,
    /// The uuid of the host that speaks.
    pub hostuuid: Uuid,
}

/// Disks that are copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nbd {
    /// The port of the target that takes them.
    pub port: Option<u16>,
    /// The disks, and their sizes in bytes.
    pub disks: Vec<(String, u64)>,
}

/// Something that a QEMU can do in a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Its name.
    pub name: String,
    /// Whether this side always does it.
    pub auto: bool,
}

impl Cookie {
    /// A cookie that says who speaks, and no more.
    #[must_use]
    pub const fn new(identity: Identity) -> Self {
        Self {
            identity,
            features: Vec::new(),
            persistent: None,
            nbd: None,
            statistics: None,
            cpu: None,
            capabilities: Vec::new(),
            extension: None,
        }
    }

    /// The bytes that go over the wire, with the zero byte at their end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = write::cookie(self).into_bytes();
        bytes.push(0);
        bytes
    }

    /// The number of the migration that a cookie is of, whatever guest it is of.
    #[must_use]
    pub fn number(bytes: &[u8]) -> Option<Uuid> {
        read::number(bytes)
    }

    /// The uuid of the host that a cookie is from, whatever guest it is of.
    #[must_use]
    pub fn host(bytes: &[u8]) -> Option<Uuid> {
        read::host(bytes)
    }

    /// Reads what has arrived, and looks whether it belongs to this migration.
    ///
    /// Nothing is `None`, where nothing may be sent.
    ///
    /// # Errors
    ///
    /// Code 1 for a cookie of another guest, of this very host, or with a feature that this side does
    /// not have; code 35 for what is no XML; code 8 for nothing where there has to be something.
    pub fn decode(
        bytes: &[u8],
        arrival: &Arrival<'_>,
    ) -> Result<Option<Self>, pagelift_rpc::error::Error> {
        read::cookie(bytes, arrival)
    }
}
