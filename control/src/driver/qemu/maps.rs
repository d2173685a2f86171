//! The mappings of another process, and which file is behind an address range.
//!
//! `/proc/PID/maps` (proc_pid_maps(5)) gives for each mapping its device, inode and file offset. Units
//! are bytes.

use std::io;

/// What a process may do with a file through its mapping; what is said first is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// What it writes does not reach the file, or others' writes may not reach it.
    Private,
    /// It reads the file: readable, not writable, and `MAP_SHARED`, "r--s".
    Read,
    /// It reads and writes the file, "rw-s".
    ReadWrite,
}

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
    /// What the process may do with the file through it.
    pub access: Access,
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
        access: match permissions.as_bytes() {
            [b'r', b'w', _, b's'] => Access::ReadWrite,
            [b'r', _, _, b's'] => Access::Read,
            _ => Access::Private,
        },
        file_offset,
        device: rustix::fs::makedev(major, minor),
        inode: fields.next()?.parse().ok()?,
        name: fields.next().unwrap_or_default().trim_start().to_owned(),
    })
}

/// The file range behind `bytes` bytes at `address`.
///
/// The kernel splits one mapping into many when their flags differ (a part watched by userfaultfd,
/// a memory policy); together they must be one stretch of one shared file, mapped for `access` at
/// least. `None` when they are not, or the range is not mapped.
pub fn find(mappings: &[Mapping], address: u64, bytes: u64, access: Access) -> Option<FileRange> {
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
        if mapping.inode == 0 || mapping.access < access || !same_file || !continues {
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
        assert_eq!(all[0].access, Access::ReadWrite);
        assert_eq!(all[3].access, Access::Private);
        assert_eq!(all[3].name, "");
    }

    #[test]
    fn split_mappings_are_one_range() {
        let all = mappings();
        let find = |address, bytes| find(&all, address, bytes, Access::ReadWrite);
        let range = find(0x7fb8_0400_0000, 0x200_0000).unwrap();
        assert_eq!(range.file_offset, 0x2000);
        assert_eq!(range.mapping, all[0]);
        // Into another file, into private memory, past the end, and nowhere.
        assert_eq!(find(0x7fb8_03ff_f000, 0x400_1000), None);
        assert_eq!(find(0x7fb8_08ff_f000, 0x1000), None);
        assert_eq!(find(0x7fb8_07ff_f000, u64::MAX), None);
        assert_eq!(find(0x1000, 0x1000), None);
    }

    #[test]
    fn only_a_mapping_for_what_is_needed_is_found() {
        for (permissions, written, read) in [
            ("rw-s", true, true),
            ("r--s", false, true),
            ("rw-p", false, false),
            ("r--p", false, false),
        ] {
            let line = format!("1000-2000 {permissions} 00000000 00:1b 3 /f");
            let mapping = [parse_line(&line).unwrap()];
            let is_found = |access| find(&mapping, 0x1000, 0x1000, access).is_some();
            assert_eq!(is_found(Access::ReadWrite), written, "{permissions}");
            assert_eq!(is_found(Access::Read), read, "{permissions}");
        }
    }
}
