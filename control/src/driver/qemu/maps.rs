//! What file lies behind an address range of another process.
//!
//! `/proc/PID/maps` (proc_pid_maps(5)) gives for each mapping its device, inode and file offset;
//! the file itself is opened through one of the process's own descriptors, so that unlinked files
//! and memfds work, then through `map_files`, then by name. Whatever was opened must have the
//! device and inode of the mapping. Units are bytes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
    /// Writes reach the file (`MAP_SHARED`).
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
        shared: permissions.as_bytes().get(3) == Some(&b's'),
        file_offset,
        device: rustix::fs::makedev(major, minor),
        inode: fields.next()?.parse().ok()?,
        name: fields.next().unwrap_or_default().trim_start().to_owned(),
    })
}

/// The file range behind `bytes` bytes at `address`.
///
/// The kernel splits one mapping into many when their flags differ (a part watched by userfaultfd,
/// a memory policy); together they must be one stretch of one shared file. `None` when they are
/// not, or the range is not mapped.
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

/// Opens the file of a mapping of process `pid` for reading and writing.
///
/// # Errors
/// When no way to it is permitted, or its name now leads to another file.
pub fn open(pid: u32, mapping: &Mapping) -> io::Result<File> {
    let is_it = |device: u64, inode: u64| (device, inode) == (mapping.device, mapping.inode);
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    let mut ways: Vec<PathBuf> = descriptors
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| std::fs::metadata(path).is_ok_and(|meta| is_it(meta.dev(), meta.ino())))
        .collect();
    ways.push(
        format!(
            "/proc/{pid}/map_files/{:x}-{:x}",
            mapping.start, mapping.end
        )
        .into(),
    );
    ways.push(PathBuf::from(&mapping.name));
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for way in ways {
        match OpenOptions::new().read(true).write(true).open(&way) {
            Ok(file) => {
                let meta = file.metadata()?;
                if is_it(meta.dev(), meta.ino()) {
                    return Ok(file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => last = error,
        }
    }
    Err(last)
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

    #[test]
    fn unlinked_file_is_opened() {
        use std::io::{Read, Seek, Write};
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"x").unwrap();
        let meta = file.metadata().unwrap();
        let mapping = Mapping {
            start: 0,
            end: 4096,
            shared: true,
            file_offset: 0,
            device: meta.dev(),
            inode: meta.ino(),
            name: "/nowhere (deleted)".into(),
        };
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
}
