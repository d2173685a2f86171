//! The file behind an address range of another process.
//!
//! `/proc/PID/maps` (proc_pid_maps(5)) gives for each mapping its device, inode and file offset.
//! The file is taken from the process's own descriptors, as it holds it: a file that it may only
//! read is not written by us, whatever we may do, and unlinked files and memfds work. No name is
//! followed. Units are bytes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, geteuid, pidfd_getfd, pidfd_open};

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
    /// Writes reach the file: readable, writable and `MAP_SHARED`, "rw-s".
    pub shared: bool,
    /// Where in the file the first address is.
    pub file_offset: u64,
    /// Device number of the file, as in `st_dev`.
    pub device: u64,
    /// Inode of the file; 0 when there is no file.
    pub inode: u64,
    /// The rest of the line: the file's name, or nothing.
    pub name: String,
}

/// Where in which file an address range lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRange {
    /// The mapping the range starts in.
    pub mapping: Mapping,
    /// Where in the file the range starts.
    pub file_offset: u64,
}

/// Reads the mappings of a process.
///
/// # Errors
/// When the process is gone, or is not ours to look at.
pub fn read(pid: u32) -> io::Result<Vec<Mapping>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok(text.lines().filter_map(parse_line).collect())
}

fn parse_line(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let file_offset = hex(fields.next()?)?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let major = u32::from_str_radix(major, 16).ok()?;
    let minor = u32::from_str_radix(minor, 16).ok()?;
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        shared: permissions.starts_with("rw") && permissions.ends_with('s'),
        file_offset,
        device: rustix::fs::makedev(major, minor),
        inode: fields.next()?.parse().ok()?,
        name: fields.next().unwrap_or_default().trim_start().to_owned(),
    })
}

/// The file range behind `bytes` bytes at `address`.
///
/// The kernel splits one mapping into many when their flags differ (a part watched by userfaultfd,
/// a memory policy); together they must be one stretch of one shared file, mapped for writing.
/// `None` when they are not, or the range is not mapped.
pub fn find(mappings: &[Mapping], address: u64, bytes: u64) -> Option<FileRange> {
    let end = address.checked_add(bytes)?;
    let index = mappings
        .iter()
        .position(|m| m.start <= address && address < m.end)?;
    let first = &mappings[index];
    let at = |m: &Mapping, address: u64| m.file_offset.checked_add(address - m.start);
    let file_offset = at(first, address)?;
    let mut covered = address;
    for mapping in &mappings[index..] {
        let same_file = (mapping.device, mapping.inode) == (first.device, first.inode);
        let continues = mapping.start <= covered
            && at(mapping, covered) == file_offset.checked_add(covered - address);
        if mapping.inode == 0 || !mapping.shared || !same_file || !continues {
            return None;
        }
        covered = mapping.end;
        if covered >= end {
            return Some(FileRange {
                mapping: first.clone(),
                file_offset,
            });
        }
    }
    None
}

/// The file of a mapping of process `pid`, which must hold it open for reading and writing.
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
        let taken = match take(&pidfd, number, &path) {
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

/// Whether a descriptor with these flags reads and writes at the offsets it is given.
fn is_read_write(flags: OFlags) -> bool {
    flags & OFlags::ACCMODE == OFlags::RDWR && !flags.contains(OFlags::APPEND)
}

/// The descriptor `number` of the process `pidfd`, whose link is `path`: the very one, if the
/// kernel lets us; `None` if it is not for reading and writing.
///
/// Yama and container engines keep descriptors from other processes. Then the link is opened
/// anew: not by root, whose rights are more than those of the process.
fn take(pidfd: &OwnedFd, number: RawFd, path: &Path) -> Result<Option<File>, Errno> {
    match pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()) {
        Ok(fd) => Ok(is_read_write(fcntl_getfl(&fd)?).then(|| fd.into())),
        Err(Errno::PERM | Errno::NOSYS) if !geteuid().is_root() => {
            let reopened = || {
                let info = path.to_str()?.replace("/fd/", "/fdinfo/");
                let flags = flags_of(&std::fs::read_to_string(info).ok()?)?;
                is_read_write(flags).then(|| OpenOptions::new().read(true).write(true).open(path))
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

    const MAPS: &str = "\
7fb803fff000-7fb804fff000 rw-s 00001000 00:1b 3                          /dev/shm/a b (deleted)
7fb804fff000-7fb807fff000 rw-s 01001000 00:1b 3                          /dev/shm/a b (deleted)
7fb807fff000-7fb808fff000 rw-s 00000000 00:1b 4                          /dev/shm/c
7fb808fff000-7fb809fff000 rw-p 00000000 00:00 0 ";

    fn mappings() -> Vec<Mapping> {
        MAPS.lines().map(|line| parse_line(line).unwrap()).collect()
    }

    #[test]
    fn lines_are_read() {
        let all = mappings();
        assert_eq!(all[0].name, "/dev/shm/a b (deleted)");
        assert_eq!((all[0].device, all[0].inode), (0x1b, 3));
        assert!(all[0].shared && !all[3].shared);
        assert_eq!(all[3].name, "");
    }

    #[test]
    fn split_mappings_are_one_range() {
        let all = mappings();
        let range = find(&all, 0x7fb8_0400_0000, 0x200_0000).unwrap();
        assert_eq!(range.file_offset, 0x2000);
        assert_eq!(range.mapping, all[0]);
        // Into another file, into private memory, past the end, and nowhere.
        assert_eq!(find(&all, 0x7fb8_03ff_f000, 0x400_1000), None);
        assert_eq!(find(&all, 0x7fb8_08ff_f000, 0x1000), None);
        assert_eq!(find(&all, 0x7fb8_07ff_f000, u64::MAX), None);
        assert_eq!(find(&all, 0x1000, 0x1000), None);
    }

    fn mapping_of(file: &File) -> Mapping {
        let meta = file.metadata().unwrap();
        Mapping {
            start: 0,
            end: 4096,
            shared: true,
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
        let of = |info: &str| flags_of(info).map(is_read_write);
        assert_eq!(of("pos:\t0\nflags:\t02100002\nmnt_id:\t9\n"), Some(true));
        assert_eq!(of("pos:\t0\nflags:\t02100000\n"), Some(false));
        assert_eq!(of("pos:\t0\nflags:\t02102002\n"), Some(false), "O_APPEND");
        assert_eq!(of("pos:\t0\n"), None);
    }

    #[test]
    fn only_a_mapping_for_writing_is_found() {
        for (permissions, is_found) in [("rw-s", true), ("r--s", false), ("rw-p", false)] {
            let line = format!("1000-2000 {permissions} 00000000 00:1b 3 /f");
            let mapping = parse_line(&line).unwrap();
            assert_eq!(find(&[mapping], 0x1000, 0x1000).is_some(), is_found);
        }
    }
}
