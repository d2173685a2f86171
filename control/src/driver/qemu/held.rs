//! Files as another process holds them.
//!
//! The file behind a mapping is taken from the process's own descriptors: a file that it may only
//! read is not written by us, whatever we may do, and unlinked files and memfds work. No name is
//! followed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, geteuid, pidfd_getfd, pidfd_open};

use super::maps::{Access, Mapping};

/// The file of a mapping of process `pid`, which must hold it open for reading and writing, unless it is
/// mapped for reading only.
///
/// # Errors
/// When the process does not hold it so, or is not ours to look into.
pub fn open(pid: u32, mapping: &Mapping) -> io::Result<File> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = raw.ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(process, PidfdFlags::empty())?;
    let mut reason = "the process does not hold the file open";
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        // Only a hint: what the number means may change before the descriptor is taken.
        if !std::fs::metadata(&path).is_ok_and(|file| is_file_of(mapping, &file)) {
            continue;
        }
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let Some(number) = number else { continue };
        let taken = match take(&pidfd, number, &path, mapping.access) {
            Ok(taken) => taken,
            // Closed since it was listed.
            Err(Errno::BADF | Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        match taken {
            Some(file) if is_file_of(mapping, &file.metadata()?) => return Ok(file),
            Some(_) => {}
            None => reason = "the process may not both read and write the file",
        }
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

fn is_file_of(mapping: &Mapping, file: &std::fs::Metadata) -> bool {
    (file.dev(), file.ino()) == (mapping.device, mapping.inode)
}

/// Whether a descriptor with these flags reads, and writes if `access` says so, at the offsets it is
/// given.
fn allows(flags: OFlags, access: Access) -> bool {
    match flags & OFlags::ACCMODE {
        OFlags::RDWR => !flags.contains(OFlags::APPEND),
        OFlags::RDONLY => access == Access::Read,
        _ => false,
    }
}

/// The descriptor `number` of the process `pidfd`, whose link is `path`: the very one, if the
/// kernel lets us; `None` if it is not for `access`.
///
/// Yama and container engines keep descriptors from other processes. Then the link is opened
/// anew: not by root, whose rights are more than those of the process.
fn take(
    pidfd: &OwnedFd,
    number: RawFd,
    path: &Path,
    access: Access,
) -> Result<Option<File>, Errno> {
    match pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()) {
        Ok(fd) => Ok(allows(fcntl_getfl(&fd)?, access).then(|| fd.into())),
        Err(Errno::PERM | Errno::NOSYS) if !geteuid().is_root() => {
            let reopened = || {
                let info = path.to_str()?.replace("/fd/", "/fdinfo/");
                let flags = flags_of(&std::fs::read_to_string(info).ok()?)?;
                let is_written = access == Access::ReadWrite;
                allows(flags, access)
                    .then(|| OpenOptions::new().read(true).write(is_written).open(path))
            };
            reopened()
                .transpose()
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
        Err(errno) => Err(errno),
    }
}

/// The flags in a `/proc/PID/fdinfo/N`, proc_pid_fdinfo(5): in octal.
fn flags_of(info: &str) -> Option<OFlags> {
    let line = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = u32::from_str_radix(line.trim(), 8).ok()?;
    Some(OFlags::from_bits_retain(flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping_of(file: &File) -> Mapping {
        let meta = file.metadata().unwrap();
        Mapping {
            start: 0,
            end: 4096,
            access: Access::ReadWrite,
            file_offset: 0,
            device: meta.dev(),
            inode: meta.ino(),
            name: "/nowhere (deleted)".into(),
        }
    }

    #[test]
    fn unlinked_file_is_opened() {
        use std::io::{Read, Seek, Write};
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"x").unwrap();
        file.rewind().unwrap();
        let mapping = mapping_of(&file);
        let mut opened = open(std::process::id(), &mapping).unwrap();
        opened.write_all(b"y").unwrap();
        file.rewind().unwrap();
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "y");
        let other = Mapping {
            inode: u64::MAX,
            ..mapping
        };
        assert!(open(std::process::id(), &other).is_err());
    }

    /// The whole privilege of this process, root's perhaps, does not open what is not held so.
    #[test]
    fn a_file_that_is_held_for_reading_is_not_opened_for_writing() {
        use std::os::unix::fs::PermissionsExt;
        let named = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&named, "theirs").unwrap();
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&named, mode).unwrap();
        let path = named.into_temp_path();
        for append in [false, true] {
            let held = OpenOptions::new().read(true).append(append).open(&path);
            let held = held.unwrap();
            let error = open(std::process::id(), &mapping_of(&held)).unwrap_err();
            assert!(error.to_string().contains("may not both"), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
    }

    #[test]
    fn flags_of_a_descriptor_are_read() {
        let of = |info: &str| flags_of(info).map(|flags| allows(flags, Access::ReadWrite));
        assert_eq!(of("pos:\t0\nflags:\t02100002\nmnt_id:\t9\n"), Some(true));
        assert_eq!(of("pos:\t0\nflags:\t02100000\n"), Some(false));
        assert_eq!(of("pos:\t0\nflags:\t02102002\n"), Some(false), "O_APPEND");
        assert_eq!(of("pos:\t0\n"), None);
    }

    /// Storage that the guest only reads.
    #[test]
    fn a_file_that_is_mapped_for_reading_is_opened_as_it_is_held() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let held = File::open(&path).unwrap();
        let mapping = Mapping {
            access: Access::Read,
            ..mapping_of(&held)
        };
        let opened = open(std::process::id(), &mapping).unwrap();
        assert!(opened.set_len(1).is_err(), "it is for reading only");
    }
}
