//! How QEMU allocates the guest's memory (`memoryBacking`).

use super::words::words;
use crate::xml::{Element, Malformed, Writer};

/// How the guest's memory is allocated. `direct` migration needs a source that is a file, and shared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backing {
    /// Whether the memory may not be swapped out.
    pub locked: bool,
    /// Where the memory comes from.
    pub source: Option<MemorySource>,
    /// Whether other processes see what the guest writes.
    pub access: Option<Access>,
}

words! {
    /// Where the guest's memory comes from.
    pub enum MemorySource {
        /// A file without a name.
        Memfd = "memfd",
        /// A file in a folder of QEMU's.
        File = "file",
        /// Memory of QEMU's alone.
        Anonymous = "anonymous",
    }
}

words! {
    /// Whether other processes see what the guest writes.
    pub enum Access {
        /// They do.
        Shared = "shared",
        /// They do not.
        Private = "private",
    }
}

impl Backing {
    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let locked = element.mark("locked")?;
        let mut source = None;
        if let Some(mut child) = element.child("source")? {
            source = child.read("type", MemorySource::from_word)?;
            child.finish()?;
        }
        let mut access = None;
        if let Some(mut child) = element.child("access")? {
            access = child.read("mode", Access::from_word)?;
            child.finish()?;
        }
        element.finish()?;
        Ok(Self {
            locked,
            source,
            access,
        })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.element("memoryBacking").body(|w| {
            w.mark("locked", self.locked);
            if let Some(source) = self.source {
                w.element("source").attribute("type", source).empty();
            }
            if let Some(access) = self.access {
                w.element("access").attribute("mode", access).empty();
            }
        });
    }
}
