//! Makes the files that hold the guest's memory: without a name, or in a folder of the user's.
//!
//! A memfd goes with QEMU. A file with a name stays, so that the memory can be kept when the
//! guest has moved away: when it comes back, `pagelift-receive --base` sends only what changed.
//! A file that is there already is never touched: it may be a guest's, or one that was kept. A file
//! with a name is for its owner alone (mode 0600), in a folder that nobody else may write to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, StatFs, fstat, fstatfs, ftruncate, memfd_create};
use rustix::process::geteuid;

use super::{Host, HugePages, MemoryFile};

/// `MFD_HUGE_SHIFT` of memfd_create(2): the logarithm of the page size goes above this bit.
const HUGE_SHIFT: u32 = 26;

/// `TMPFS_MAGIC` and `HUGETLBFS_MAGIC` of statfs(2).
const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;

/// Makes files of memory, and holds them until QEMU has them.
#[derive(Debug)]
pub(super) struct MemoryFiles<'a> {
    /// Where files get a name; without it they have none.
    dir: Option<&'a Path>,
    /// Not close-on-exec, and open until then.
    inherited: Vec<OwnedFd>,
    named: Vec<PathBuf>,
}

impl<'a> MemoryFiles<'a> {
    /// Makes files in `dir`, or memfds.
    pub(super) fn new(dir: Option<&'a Path>) -> Self {
        Self {
            dir,
            inherited: Vec::new(),
            named: Vec::new(),
        }
    }

    fn make_memfd(&mut self, file: &MemoryFile) -> io::Result<String> {
        let name = format!("pagelift-{}", file.id);
        let fd = memfd_create(name, memfd_flags(file.huge_pages))?;
        // The block size of a file of huge pages is that of the page, memfd_create(2).
        let block_bytes = u64::try_from(fstat(&fd)?.st_blksize).unwrap_or(1).max(1);
        ftruncate(&fd, rounded(file.size_bytes, block_bytes)?)?;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        self.inherited.push(fd);
        Ok(path)
    }

    fn make_named(&mut self, dir: &Path, file: &MemoryFile) -> io::Result<String> {
        let opened = File::open(dir).and_then(|dir| Ok((fstatfs(&dir)?, dir.metadata()?)));
        let (filesystem, folder) = opened.map_err(|error| about(dir, &error))?;
        let block_bytes = block_bytes(dir, &filesystem, file.huge_pages)?;
        check_private(dir, folder.uid(), folder.mode())?;
        if file.id.contains('/') || file.id.starts_with('.') {
            return Err(io::Error::other("its identifier is no name for a file"));
        }
        // QEMU may be told to change its folder.
        let path = std::path::absolute(dir.join(&file.id))?;
        let text = path
            .to_str()
            .ok_or_else(|| io::Error::other(format!("{} is not UTF-8", path.display())))?
            .to_owned();
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let made = made.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => io::Error::other(format!(
                "{text} is there already. If it was kept for a guest that comes back, give it \
                 another name and tell pagelift-receive with --base; if nobody needs it, remove it"
            )),
            _ => about(&path, &error),
        })?;
        self.named.push(path);
        made.set_len(rounded(file.size_bytes, block_bytes)?)?;
        Ok(text)
    }
}

impl Host for MemoryFiles<'_> {
    fn create_memory(&mut self, file: &MemoryFile) -> io::Result<String> {
        match self.dir {
            None => self.make_memfd(file),
            Some(dir) => self.make_named(dir, file),
        }
    }

    fn read_config(&mut self, path: &str) -> io::Result<String> {
        std::fs::read_to_string(path)
    }
}

impl Drop for MemoryFiles<'_> {
    /// QEMU was not started: what was made for it is of no use. Where it was started, this
    /// process has become QEMU.
    fn drop(&mut self) {
        for path in &self.named {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The size that files in `dir` come in.
///
/// # Errors
/// When memory there cannot be tracked, or has not the pages that are asked for.
fn block_bytes(dir: &Path, filesystem: &StatFs, wanted: Option<HugePages>) -> io::Result<u64> {
    let refused = |why: &str| Err(io::Error::other(format!("{}: {why}", dir.display())));
    let bytes = u64::try_from(filesystem.f_bsize).unwrap_or(1).max(1);
    match (filesystem.f_type as u64 & 0xffff_ffff, wanted) {
        (HUGETLBFS, Some(HugePages::OfBytes(wanted))) if wanted != bytes => refused(&format!(
            "its pages have {bytes} bytes, and the command line asks for {wanted}; mount a \
             hugetlbfs with pagesize={wanted}"
        )),
        (HUGETLBFS, _) => Ok(bytes),
        (TMPFS, None) => Ok(bytes),
        (TMPFS, Some(_)) => {
            refused("it has no huge pages, and the command line asks for them; name a hugetlbfs")
        }
        _ => refused(
            "it is neither on tmpfs nor on hugetlbfs, and writes to a disk's files cannot be \
             tracked; name a folder in /dev/shm",
        ),
    }
}

/// That nobody else may put files into the folder `dir`, or take them away.
fn check_private(dir: &Path, owner: u32, mode: u32) -> io::Result<()> {
    let own = geteuid().as_raw();
    let why = if owner != own && owner != 0 {
        format!("it belongs to user {owner}, not to user {own}")
    } else if mode & 0o022 != 0 {
        format!("others may write to it (mode {:o})", mode & 0o7777)
    } else {
        return Ok(());
    };
    Err(io::Error::other(format!(
        "{}: {why}, and a file there will hold the guest's memory; name a folder of your own, made \
         by `mkdir -m 700`",
        dir.display()
    )))
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn rounded(bytes: u64, block_bytes: u64) -> io::Result<u64> {
    bytes
        .checked_next_multiple_of(block_bytes)
        .ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

fn memfd_flags(huge_pages: Option<HugePages>) -> MemfdFlags {
    match huge_pages {
        None => MemfdFlags::empty(),
        Some(HugePages::Default) => MemfdFlags::HUGETLB,
        Some(HugePages::OfBytes(bytes)) => {
            MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(bytes.ilog2() << HUGE_SHIFT)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(huge_pages: Option<HugePages>) -> MemoryFile {
        MemoryFile {
            id: "t".into(),
            size_bytes: 5000,
            huge_pages,
        }
    }

    #[test]
    fn huge_page_sizes_go_into_the_flags() {
        let of = |bytes| memfd_flags(Some(HugePages::OfBytes(bytes)));
        assert_eq!(of(2 << 20), MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB);
        assert_eq!(of(1 << 30), MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB);
    }

    #[test]
    fn a_memory_file_has_its_size_and_survives_exec() {
        let mut host = MemoryFiles::new(None);
        let path = host.create_memory(&file(None)).unwrap();
        let fd = &host.inherited[0];
        assert_eq!(path, format!("/proc/self/fd/{}", fd.as_raw_fd()));
        assert_eq!(fstat(fd).unwrap().st_size, 8192);
        let flags = rustix::io::fcntl_getfd(fd).unwrap();
        assert!(flags.is_empty());
    }

    #[test]
    fn a_named_file_is_made_once_and_goes_if_qemu_is_not_started() {
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
            eprintln!("SKIP: needs /dev/shm");
            return;
        };
        let mut host = MemoryFiles::new(Some(dir.path()));
        let path = host.create_memory(&file(None)).unwrap();
        assert_eq!(Path::new(&path), dir.path().join("t"));
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!((made.len(), made.mode() & 0o7777), (8192, 0o600));
        let again = host.create_memory(&file(None)).unwrap_err().to_string();
        assert!(again.contains("is there already"), "{again}");
        assert!(again.contains("--base"), "{again}");
        drop(host);
        assert!(!Path::new(&path).exists());
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
            eprintln!("SKIP: needs /dev/shm");
            return;
        };
        for (mode, is_taken) in [
            (0o700, true),
            (0o755, true),
            (0o775, false),
            (0o1777, false),
        ] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.path(), permissions).unwrap();
            let made = MemoryFiles::new(Some(dir.path())).create_memory(&file(None));
            assert_eq!(made.is_ok(), is_taken, "{mode:o}: {made:?}");
            let Err(error) = made else { continue };
            let expected = format!("others may write to it (mode {mode:o})");
            assert!(error.to_string().contains(&expected), "{error}");
        }
        let own = geteuid().as_raw();
        assert!(check_private(dir.path(), own + 1, 0o700).is_err());
        assert!(check_private(dir.path(), own, 0o700).is_ok());
    }

    #[test]
    fn a_folder_that_cannot_hold_memory_is_refused() {
        let error = |dir: &str, huge_pages| {
            let mut host = MemoryFiles::new(Some(Path::new(dir)));
            host.create_memory(&file(huge_pages))
                .unwrap_err()
                .to_string()
        };
        assert!(error("/nonexistent", None).contains("/nonexistent: No such file"));
        assert!(error("/proc", None).contains("neither on tmpfs nor on hugetlbfs"));
        if Path::new("/dev/shm").is_dir() {
            let error = error("/dev/shm", Some(HugePages::Default));
            assert!(error.contains("has no huge pages"), "{error}");
        }
    }
}
