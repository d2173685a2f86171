//! What a process has mapped, from /proc/PID/maps; proc_pid_maps(5).

use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::ops::Range;

use rustix::process::Pid;

use super::SysError;

/// The mappings of a process. Stays bound to the address space it was opened for.
#[derive(Debug)]
pub struct Mappings {
    maps: File,
}

impl Mappings {
    /// Opens the mappings of process `pid`, or of this one.
    ///
    /// # Errors
    /// When there is no such process, or it may not be looked at (ptrace(2),
    /// PTRACE_MODE_READ_FSCREDS).
    pub fn open(pid: Option<Pid>) -> Result<Self, SysError> {
        let path = pid.map_or_else(
            || "/proc/self/maps".to_owned(),
            |pid| format!("/proc/{}/maps", pid.as_raw_nonzero()),
        );
        let maps = File::open(&path).map_err(|error| SysError::Unsupported {
            what: format!("{path} cannot be opened ({error})"),
            remedy: "run as the user of that process, or with CAP_SYS_PTRACE".into(),
        })?;
        Ok(Self { maps })
    }

    /// Whether all of `addresses` is mapped, privately and without a file: what the page tables of
    /// the process do not hold of it does not exist.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn are_private_anonymous(&mut self, addresses: Range<u64>) -> Result<bool, SysError> {
        let failed = |source| SysError::Failed {
            call: "reading /proc/PID/maps",
            source,
        };
        self.maps.rewind().map_err(failed)?;
        let mut at = addresses.start;
        for line in BufReader::new(&self.maps).lines() {
            let line = line.map_err(failed)?;
            let Some(mapping) = Mapping::parse(&line) else {
                continue;
            };
            if mapping.addresses.end <= at {
                continue;
            }
            if mapping.addresses.start > at || !mapping.is_private_anonymous {
                return Ok(false);
            }
            at = mapping.addresses.end;
            if at >= addresses.end {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// One line of the file.
struct Mapping {
    addresses: Range<u64>,
    is_private_anonymous: bool,
}

impl Mapping {
    /// `START-END PERMS OFFSET DEVICE INODE [NAME]`, numbers in base 16 but for the inode.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?;
        let (_offset, _device) = (fields.next()?, fields.next()?);
        let inode = fields.next()?;
        Some(Self {
            addresses: u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?,
            is_private_anonymous: permissions.ends_with('p') && inode == "0",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whether_the_memory_is_private_and_of_no_file() {
        for (line, expected) in [
            ("7f00a000-7f00c000 rw-p 00000000 00:00 0 ", true),
            ("7f00a000-7f00c000 rw-p 00000000 00:00 0    [heap]", true),
            (
                "7f00a000-7f00c000 rw-s 00000000 00:01 1032  /memfd:ram (deleted)",
                false,
            ),
            (
                "7f00a000-7f00c000 rw-s 00000000 00:01 2056  /dev/zero (deleted)",
                false,
            ),
            (
                "7f00a000-7f00c000 r--p 00002000 fe:00 5231  /usr/lib/a b.so",
                false,
            ),
        ] {
            let mapping = Mapping::parse(line).unwrap();
            assert_eq!(mapping.addresses, 0x7f00_a000..0x7f00_c000);
            assert_eq!(mapping.is_private_anonymous, expected, "{line}");
        }
        assert!(Mapping::parse("").is_none());
        assert!(Mapping::parse("vsyscall").is_none());
    }

    #[test]
    fn this_process_has_a_stack_and_nothing_at_address_zero() {
        let mut own = Mappings::open(None).unwrap();
        let stack = std::ptr::from_ref(&own).addr() as u64 & !0xfff;
        assert!(own.are_private_anonymous(stack..stack + 4096).unwrap());
        assert!(!own.are_private_anonymous(0..4096).unwrap());
        let text = Mapping::parse as *const () as u64 & !0xfff;
        assert!(!own.are_private_anonymous(text..text + 4096).unwrap());
    }
}
