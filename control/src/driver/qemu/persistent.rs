//! Persistent memory: NVDIMMs, virtio-pmem, and memory backends with `pmem=on`.
//!
//! The guest keeps data in it as on a disk, and it outlives the guest. So it is treated as a disk is:
//! both sides must have the same file, which is left alone; or else it is copied, but only on
//! demand, and only into a file that is empty. What the guest can only read is never copied.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pagelift_engine::memory::{
    FileMemory, KnownFile, MemoryError, PageBitmap, PersistentFile, Reach, ReadPages,
};
use pagelift_engine::units::{PAGE_BYTES, PageRange};
use pagelift_engine::wire::GuestProperty;

use super::backend::Backend;
use super::held;
use super::inspect::{Guest, InspectError, RamBlock};
use super::maps::{self, Access, Mapping};
use crate::driver::Refusal;

/// What is done about persistent memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PersistentMemory {
    /// It is left alone, and both sides must be seen to have the same file.
    #[default]
    SameFile,
    /// The same, and on file systems on which that cannot be told both sides are believed.
    Shared,
    /// It is copied as RAM is, into an empty file.
    Copy,
}

impl PersistentMemory {
    /// The word for it in properties.
    fn name(self) -> &'static str {
        match self {
            Self::SameFile => "the same file",
            Self::Shared => "the same file, as both sides say",
            Self::Copy => "copied",
        }
    }
}

impl Guest {
    /// Whether this is the backend of persistent memory.
    pub fn is_persistent(&self, backend: &Backend) -> bool {
        self.persistent.contains(&backend.id)
    }

    /// What must be equal on both sides about persistent memory, if there is any.
    pub(super) fn persistent_property(&self, how: PersistentMemory) -> Option<GuestProperty> {
        let list = self.backends.iter().filter(|b| self.is_persistent(b));
        let list: Vec<_> = list.map(|b| format!("{} {}", b.id, b.bytes)).collect();
        let value = format!("{}: {}", how.name(), list.join(", "));
        (!list.is_empty()).then(|| GuestProperty::new("persistent memory (bytes)", value))
    }

    /// What must be equal on both sides where RAM is handed over.
    pub(super) fn same_memory_property(same_memory: bool) -> Option<GuestProperty> {
        same_memory.then(|| GuestProperty::new("RAM", "handed over by --same-memory, not copied"))
    }

    /// Finds and opens the files of persistent memory. The blocks are named as their backends:
    /// QEMU knows no name for some of them.
    ///
    /// # Errors
    /// When one is no shared file mapping of QEMU's process, or may not be opened.
    pub fn open_persistent(&self) -> Result<Vec<RamBlock>, InspectError> {
        let pid = self.pid;
        let process = |what: String| move |source| InspectError::Process { pid, what, source };
        let mappings = maps::read(pid).map_err(process("its memory map".into()))?;
        let backends = self.backends.iter().filter(|b| self.is_persistent(b));
        let open = |backend: &Backend| {
            let mapping = self.mapping_of(backend, &mappings);
            let mapping = mapping.ok_or_else(|| {
                process(format!("persistent memory {}", backend.id))(io::Error::other(
                    "the file of its mem-path is not mapped as a whole",
                ))
            })?;
            let file = held::open(pid, mapping).map_err(process(format!(
                "persistent memory {} ({})",
                backend.id, mapping.name
            )))?;
            Ok(RamBlock {
                name: backend.id.clone(),
                bytes: backend.bytes,
                page_bytes: PAGE_BYTES as u64,
                address: mapping.start,
                file,
                file_offset: mapping.file_offset,
                backend_id: backend.id.clone(),
            })
        };
        backends.map(open).collect()
    }

    /// Where QEMU has mapped the file of `backend`, all of it. Its name says only which mapping to
    /// look for; what is opened is what QEMU holds.
    fn mapping_of<'a>(&self, backend: &Backend, mappings: &'a [Mapping]) -> Option<&'a Mapping> {
        let path = Path::new(backend.path.as_deref()?);
        let from = if path.is_absolute() { "root" } else { "cwd" };
        let path = path.strip_prefix("/").unwrap_or(path);
        let file = std::fs::metadata(format!("/proc/{}/{from}/{}", self.pid, path.display()));
        let (device, inode) = file.ok().map(|file| (file.dev(), file.ino()))?;
        let access = match backend.readonly {
            true => Access::Read,
            false => Access::ReadWrite,
        };
        mappings.iter().find(|mapping| {
            (mapping.device, mapping.inode) == (device, inode)
                && maps::find(mappings, mapping.start, backend.bytes, access).is_some()
        })
    }
}

/// The files of a guest, by what happens to them.
#[derive(Debug)]
pub(super) struct GuestFiles {
    /// What is moved: RAM, and persistent memory that is to be copied.
    pub(super) moved: Vec<RamBlock>,
    /// Memory that is left alone, for the engine to compare.
    pub(super) left_alone: Vec<PersistentFile>,
    /// Files of that which others may see over a network: what the guest wrote must have reached their
    /// storage before it goes on elsewhere.
    pub(super) remote: Vec<File>,
    /// Files of persistent memory that is copied.
    pub(super) copied: Vec<File>,
}

impl GuestFiles {
    /// Opens the files of `guest`. With the `same_memory` on both sides RAM is left alone as well.
    ///
    /// # Errors
    /// When one is no shared file mapping of QEMU's process, or may not be opened.
    pub(super) fn open(
        guest: &Guest,
        how: PersistentMemory,
        same_memory: bool,
    ) -> Result<Self, InspectError> {
        let mut files = Self {
            moved: guest.open_ram()?,
            left_alone: Vec::new(),
            remote: Vec::new(),
            copied: Vec::new(),
        };
        if same_memory {
            for block in std::mem::take(&mut files.moved) {
                let process = |source| InspectError::Process {
                    pid: guest.pid,
                    what: format!("block {}", block.name),
                    source,
                };
                guest.keeps_data(&block)?;
                files.left_alone.push(PersistentFile {
                    file: KnownFile::of(block.name.clone(), &block.file).map_err(process)?,
                    assume_same: false,
                    is_ram: true,
                });
            }
        }
        for block in guest.open_persistent()? {
            let name = block.name.clone();
            let process = |source| InspectError::Process {
                pid: guest.pid,
                what: format!("persistent memory {}", block.name),
                source,
            };
            let backend = guest.backends.iter().find(|b| b.id == block.backend_id);
            let is_read_only = backend.is_some_and(|backend| backend.readonly);
            if how == PersistentMemory::Copy && !is_read_only {
                files.copied.push(block.file.try_clone().map_err(process)?);
                files.moved.push(block);
                continue;
            }
            guest.keeps_data(&block)?;
            let file = KnownFile::of(name, &block.file).map_err(process)?;
            let is_remote = file.reach() == Reach::Wider;
            files.left_alone.push(PersistentFile {
                file,
                assume_same: how == PersistentMemory::Shared,
                is_ram: false,
            });
            if is_remote {
                files.remote.push(block.file);
            }
        }
        Ok(files)
    }
}

impl Guest {
    /// That a file which both QEMUs have outlives the one that ends first.
    fn keeps_data(&self, block: &RamBlock) -> Result<(), InspectError> {
        let backend = self.backends.iter().find(|b| b.id == block.backend_id);
        match backend.is_some_and(|backend| backend.discards_data) {
            true => Err(InspectError::DiscardsData(block.backend_id.clone())),
            false => Ok(()),
        }
    }
}

/// Why persistent memory cannot be copied into the files of `blocks`, those of `guest`.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn refuse_filled(
    guest: &Guest,
    memory: &FileMemory,
    moved: &[RamBlock],
) -> Result<Vec<Refusal>, MemoryError> {
    let mut filled = PageBitmap::new(memory.layout().pages());
    memory.populated(&mut filled)?;
    let mut page = vec![0; PAGE_BYTES];
    let mut refusals = Vec::new();
    for (number, block) in moved.iter().enumerate() {
        if !guest.persistent.contains(&block.backend_id) {
            continue;
        }
        let range = memory.layout().region_range(number);
        let mut holds_something = false;
        for index in filled.runs_in(range).flat_map(|run| run.indices()) {
            memory.read(PageRange::new(index, 1), &mut page)?;
            holds_something = page.iter().any(|byte| *byte != 0);
            if holds_something {
                break;
            }
        }
        if holds_something {
            refusals.push(Refusal::new(
                format!("the file of persistent memory {} is not empty", block.name),
                "start the target with a new file of the same size, as by `truncate -s SIZE FILE`, or \
                 leave the memory alone",
            ));
        }
    }
    Ok(refusals)
}
