//! The identity of a file, by which two sides tell whether both have the same one.
//!
//! On one kernel a file is its device and inode, in whatever container it is seen, and a kernel is
//! its boot id. So files in memory and on local disks are the same if and only if all three are.
//! Files that come from elsewhere (network file systems, FUSE, overlays) may have other numbers at
//! each place where they are seen: of these only a [`Mark`](super::Mark) can tell.
//!
//! The numbers themselves are not shown to the other side: what goes over is a hash of them that is
//! another one in each migration. The machine id is not part of it: containers of one machine may
//! have different ones, and would take one file for two.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use linux_raw_sys::general as magic;
use rustix::fs::fstatfs;

use crate::sys::{boot_id, random_number};

/// Makes hashes of files different from everything else that is hashed.
const CONTEXT: &str = "pagelift 2026-12 identity of a file of a guest";

/// File systems whose files only this kernel can have.
const LOCAL: [u32; 7] = [
    magic::TMPFS_MAGIC,
    magic::RAMFS_MAGIC,
    magic::HUGETLBFS_MAGIC,
    magic::EXT4_SUPER_MAGIC,
    magic::XFS_SUPER_MAGIC,
    magic::BTRFS_SUPER_MAGIC,
    magic::F2FS_SUPER_MAGIC,
];

/// Who can have a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// This kernel alone, under one device and inode.
    Kernel,
    /// Others as well, or this kernel under several numbers.
    Wider,
}

/// A file as it is shown to the other side of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// Hash of what it is known by.
    pub hash: u128,
    /// Who can have it.
    pub reach: Reach,
}

/// Whether two identities are of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sameness {
    /// They are.
    Same,
    /// They are not.
    Different,
    /// The identities cannot tell.
    Unclear,
}

impl FileIdentity {
    /// Whether this and `other`, made for the same migration, are of one file.
    pub fn compare(&self, other: &Self) -> Sameness {
        match (self.reach, other.reach) {
            _ if self.hash == other.hash => Sameness::Same,
            (Reach::Kernel, Reach::Kernel) => Sameness::Different,
            _ => Sameness::Unclear,
        }
    }
}

/// A file as this side knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFile {
    /// What it is called in messages: the name of a region in it.
    pub name: String,
    kernel: u128,
    device: u64,
    inode: u64,
    reach: Reach,
}

impl KnownFile {
    /// An open file.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of(name: String, file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let file_system = fstatfs(file)?.f_type as u64 & 0xffff_ffff;
        // A device's node is in a file system, and its content is not.
        let (device, inode) = match metadata.file_type() {
            kind if kind.is_char_device() || kind.is_block_device() => (metadata.rdev(), 0),
            _ => (metadata.dev(), metadata.ino()),
        };
        let is_local = metadata.is_file() && LOCAL.iter().any(|id| u64::from(*id) == file_system);
        Ok(match boot_id() {
            Ok(kernel) if is_local => Self::new(name, kernel, (device, inode), Reach::Kernel),
            Ok(kernel) => Self::new(name, kernel, (device, inode), Reach::Wider),
            // Nothing is known of the kernel, as without /proc: then no number says that two files
            // are the same, and none that they differ.
            Err(_) => {
                let kernel = random_number().map_err(io::Error::other)?;
                Self::new(name, kernel, (device, inode), Reach::Wider)
            }
        })
    }

    /// The file that kernel number `kernel` knows by its device and inode.
    pub fn new(name: String, kernel: u128, (device, inode): (u64, u64), reach: Reach) -> Self {
        Self {
            name,
            kernel,
            device,
            inode,
            reach,
        }
    }

    /// Whether `other`, of the same kernel, is the same file under the same numbers.
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Who can have it.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// As it is shown in migration number `session`.
    pub fn identity(&self, session: u128) -> FileIdentity {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&session.to_le_bytes());
        hasher.update(&self.kernel.to_le_bytes());
        hasher.update(&self.device.to_le_bytes());
        hasher.update(&self.inode.to_le_bytes());
        let mut hash = [0; 16];
        hasher.finalize_xof().fill(&mut hash);
        FileIdentity {
            hash: u128::from_le_bytes(hash),
            reach: self.reach,
        }
    }
}

/// A file that the guest sees as memory and that is left alone: one that it keeps its data in, as on a
/// disk (an NVDIMM, virtio-pmem), or RAM that is handed over within a host.
///
/// It is neither cleared nor sent: both sides must have the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistentFile {
    /// The file; its name is the same on both sides.
    pub file: KnownFile,
    /// Whether it is taken for the other side's where that cannot be told: somebody has said so.
    pub assume_same: bool,
    /// Whether it is RAM.
    pub is_ram: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_same_by_whatever_it_was_opened() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("ram");
        let here = KnownFile::of("a".into(), &File::create(&path).unwrap()).unwrap();
        std::fs::hard_link(&path, dir.path().join("link")).unwrap();
        let link = File::open(dir.path().join("link")).unwrap();
        let there = KnownFile::of("b".into(), &link).unwrap();
        assert_eq!(here.reach, Reach::Kernel);
        let (here, there) = (here.identity(5), there.identity(5));
        assert_eq!(here.compare(&there), Sameness::Same);
        let other = File::create(dir.path().join("other")).unwrap();
        let other = KnownFile::of("c".into(), &other).unwrap();
        assert_eq!(here.compare(&other.identity(5)), Sameness::Different);
    }

    #[test]
    fn the_same_numbers_on_another_kernel_are_another_file() {
        let file = |kernel, reach| KnownFile::new("a".into(), kernel, (1, 2), reach).identity(5);
        let here = file(1, Reach::Kernel);
        assert_eq!(here.compare(&file(2, Reach::Kernel)), Sameness::Different);
        assert_eq!(here.compare(&file(2, Reach::Wider)), Sameness::Unclear);
    }

    #[test]
    fn what_is_shown_differs_from_migration_to_migration() {
        let file = KnownFile::new("a".into(), 1, (1, 2), Reach::Kernel);
        assert_ne!(file.identity(5).hash, file.identity(6).hash);
    }

    #[test]
    fn what_does_not_belong_to_one_kernel_alone_is_known_for_it() {
        let file = File::open("/proc/self/status").unwrap();
        let file = KnownFile::of("a".into(), &file).unwrap();
        assert_eq!(file.reach, Reach::Wider);
    }
}
