//! `ioctl(PAGEMAP_SCAN)`: which pages were written, and protecting them again.
//!
//! See PAGEMAP_SCAN(2const), and "Pagemap Scan IOCTL" in the kernel's
//! Documentation/admin-guide/mm/pagemap.rst. Linux 6.7 or newer.
//!
//! The kernel reports each page and protects it again in one step, under the lock of its page
//! table: a write falls either before the report or after the protection, never between.
//!
//! It can be asked about another process (PTRACE_MODE_READ is needed, ptrace(2)). The descriptor
//! stays bound to the address space it was opened for, even if the number of the process is used
//! again.
//!
//! Cost: 1.5 ns per resident page that is not written, 60 ns (many) to 280 ns (few) for one that
//! is and gets protected again.

#![allow(unsafe_code, reason = "rustix has no typed call for this ioctl")]

use std::ffi::c_void;
use std::ops::Range;

use linux_raw_sys::general::{
    PAGE_IS_PFNZERO, PAGE_IS_PRESENT, PAGE_IS_SWAPPED, PAGE_IS_WRITTEN, PM_SCAN_CHECK_WPASYNC,
    PM_SCAN_WP_MATCHING, page_region, pm_scan_arg,
};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use rustix::process::Pid;

use super::{SysError, kernel_release};

/// `PAGEMAP_SCAN` of linux/fs.h.
const PAGEMAP_SCAN: Opcode = opcode::read_write::<pm_scan_arg>(b'f', 16);

/// Runs of pages that one call can report (24 bytes each); more calls follow when it is full.
const RUNS_PER_CALL: usize = 1024;

/// What happens to the marks of pages that are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// They stay: the next scan reports the same pages again.
    Keep,
    /// They are cleared: the pages are write-protected again.
    Clear,
}

/// What is in a run of places of a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Pages, in memory or swapped out.
    Pages,
    /// Nothing, or the kernel's page of zeros.
    Nothing,
}

impl Content {
    fn of(categories: u64) -> Self {
        let is_page = categories & u64::from(PAGE_IS_PRESENT | PAGE_IS_SWAPPED) != 0;
        match is_page && categories & u64::from(PAGE_IS_PFNZERO) == 0 {
            true => Self::Pages,
            false => Self::Nothing,
        }
    }
}

/// Which pages a scan reports, and what it does with them.
#[derive(Clone, Copy, Default)]
struct Query {
    /// Categories that count as theirs by those that lack them.
    inverted: u64,
    /// Pages that have all of these categories,
    all_of: u64,
    /// and, unless it is 0, one of these.
    any_of: u64,
    /// Categories to be told about.
    told: u64,
    flags: u64,
}

/// One call of the ioctl; its result is the number of runs in `vec`.
struct Scan<'a>(&'a mut pm_scan_arg);

// SAFETY: the opcode takes a pm_scan_arg, which the kernel updates; `vec` is checked by the
// caller of `ioctl`.
unsafe impl Ioctl for Scan<'_> {
    type Output = usize;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        PAGEMAP_SCAN
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(runs: IoctlOutput, _: *mut c_void) -> rustix::io::Result<usize> {
        usize::try_from(runs).map_err(|_| Errno::INVAL)
    }
}

/// The page map of a process, with room for the answers.
#[derive(Debug)]
pub struct PagemapScan {
    pagemap: OwnedFd,
    runs: Vec<page_region>,
}

impl PagemapScan {
    /// Opens the page map of process `pid`, or of this one.
    ///
    /// # Errors
    /// When there is no such process, or it may not be looked at (ptrace(2),
    /// PTRACE_MODE_READ_FSCREDS).
    pub fn open(pid: Option<Pid>) -> Result<Self, SysError> {
        let path = pid.map_or_else(
            || "/proc/self/pagemap".to_owned(),
            |pid| format!("/proc/{}/pagemap", pid.as_raw_nonzero()),
        );
        let pagemap = rustix::fs::open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| SysError::Unsupported {
                what: format!("{path} cannot be opened ({errno})"),
                remedy: "run as the user of that process, or with CAP_SYS_PTRACE".into(),
            })?;
        let empty = page_region {
            start: 0,
            end: 0,
            categories: 0,
        };
        Ok(Self {
            pagemap,
            runs: vec![empty; RUNS_PER_CALL],
        })
    }

    /// Tells whether this kernel has the call, before anything depends on it.
    ///
    /// # Errors
    /// When it has not; the message names the version that is needed.
    pub fn probe() -> Result<(), SysError> {
        let mut own = Self::open(None)?;
        let page = std::ptr::from_ref(&own).addr() as u64 & !0xfff;
        let mut seen = 0;
        own.populated(page..page + 4096, |_| seen += 1)?;
        if seen == 1 {
            return Ok(());
        }
        Err(SysError::Unsupported {
            what: "PAGEMAP_SCAN does not see this process's own memory".into(),
            remedy: "use a kernel that implements it; gVisor, for one, does not".into(),
        })
    }

    /// Calls `found` for each run of written pages in `addresses`, in order.
    ///
    /// With [`Marks::Clear`] each reported page has been protected again when this returns, and
    /// the range must be registered with a userfaultfd in asynchronous write-protect mode.
    ///
    /// # Errors
    /// When the kernel has no such call, or (`EPERM`, only with [`Marks::Clear`]) a part of the
    /// range is no longer registered, because the process has mapped something else there.
    pub fn written(
        &mut self,
        addresses: Range<u64>,
        marks: Marks,
        mut found: impl FnMut(Range<u64>),
    ) -> Result<(), SysError> {
        let flags = match marks {
            Marks::Keep => 0,
            Marks::Clear => PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
        };
        // The kernel has a faster walk for exactly this query. It also counts a place in the
        // page table that holds nothing at all, such as that of a discarded page, as written.
        let query = Query {
            all_of: PAGE_IS_WRITTEN.into(),
            told: PAGE_IS_WRITTEN.into(),
            flags: flags.into(),
            ..Query::default()
        };
        self.scan(addresses, query, |run, _| found(run))
    }

    /// Calls `found` for each run of pages in `addresses` that are in memory or swapped out,
    /// without those that are the kernel's page of zeros.
    ///
    /// Asks the page tables: pages that only the page cache of a file has are left out, and
    /// pages that are not populated but write-protected by a userfaultfd show as swapped out.
    ///
    /// # Errors
    /// When the kernel has no such call.
    pub fn populated(
        &mut self,
        addresses: Range<u64>,
        mut found: impl FnMut(Range<u64>),
    ) -> Result<(), SysError> {
        let query = Query {
            any_of: (PAGE_IS_PRESENT | PAGE_IS_SWAPPED).into(),
            told: PAGE_IS_PFNZERO.into(),
            ..Query::default()
        };
        self.scan(addresses, query, |run, categories| {
            if categories & u64::from(PAGE_IS_PFNZERO) == 0 {
                found(run);
            }
        })
    }

    /// Calls `found` for each run of places in `addresses` for which the page table holds no page, in
    /// order. Costs as much as [`written`](Self::written) does.
    ///
    /// # Errors
    /// When the kernel has no such call.
    pub fn absent(
        &mut self,
        addresses: Range<u64>,
        mut found: impl FnMut(Range<u64>),
    ) -> Result<(), SysError> {
        let query = Query {
            inverted: PAGE_IS_PRESENT.into(),
            all_of: PAGE_IS_PRESENT.into(),
            ..Query::default()
        };
        self.scan(addresses, query, |run, _| found(run))
    }

    /// Calls `found` for each run of pages in `addresses` that are written, and of places in the
    /// page table that hold nothing, in order: for memory that is nowhere but in page tables.
    ///
    /// Protects nothing. Costs 2 ns for a page that is not written, and 12 ns for one that is and
    /// for an empty place; places without a page table are free.
    ///
    /// # Errors
    /// As for [`written`](Self::written) with [`Marks::Clear`].
    pub fn written_or_empty(
        &mut self,
        addresses: Range<u64>,
        mut found: impl FnMut(Range<u64>, Content),
    ) -> Result<(), SysError> {
        let query = Query {
            inverted: PAGE_IS_PRESENT.into(),
            any_of: (PAGE_IS_WRITTEN | PAGE_IS_PRESENT).into(),
            told: (PAGE_IS_WRITTEN | PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO).into(),
            flags: PM_SCAN_CHECK_WPASYNC.into(),
            ..Query::default()
        };
        self.scan(addresses, query, |run, categories| {
            let content = Content::of(categories);
            // What is swapped out is not present, and so is reported although it is not written.
            if content == Content::Nothing || categories & u64::from(PAGE_IS_WRITTEN) != 0 {
                found(run, content);
            }
        })
    }

    /// Calls `found` for each run of written pages in `addresses`, in order, after they have been
    /// protected again; places that hold nothing are left alone. [`Content::Nothing`]: they were
    /// the kernel's page of zeros.
    ///
    /// # Errors
    /// As for [`written`](Self::written) with [`Marks::Clear`].
    pub fn protect_written_pages(
        &mut self,
        addresses: Range<u64>,
        mut found: impl FnMut(Range<u64>, Content),
    ) -> Result<(), SysError> {
        let query = Query {
            all_of: PAGE_IS_WRITTEN.into(),
            any_of: (PAGE_IS_PRESENT | PAGE_IS_SWAPPED).into(),
            told: (PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO).into(),
            flags: (PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC).into(),
            ..Query::default()
        };
        self.scan(addresses, query, |run, categories| {
            found(run, Content::of(categories));
        })
    }

    /// Calls `found` for each run of pages that `query` asks for, with what it is told of them.
    fn scan(
        &mut self,
        addresses: Range<u64>,
        query: Query,
        mut found: impl FnMut(Range<u64>, u64),
    ) -> Result<(), SysError> {
        let mut at = addresses.start;
        while at < addresses.end {
            let mut arg = pm_scan_arg {
                size: size_of::<pm_scan_arg>() as u64,
                flags: query.flags,
                start: at,
                end: addresses.end,
                walk_end: 0,
                vec: self.runs.as_mut_ptr().expose_provenance() as u64,
                vec_len: self.runs.len() as u64,
                max_pages: 0,
                category_inverted: query.inverted,
                category_mask: query.all_of,
                category_anyof_mask: query.any_of,
                return_mask: query.told,
            };
            // SAFETY: `vec` is ours for `vec_len` entries, and nobody else looks at it
            // meanwhile; the kernel writes no more than that.
            let count = match unsafe { ioctl(self.pagemap.as_fd(), Scan(&mut arg)) } {
                Ok(count) => count.min(self.runs.len()),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(scan_error(errno)),
            };
            for run in &self.runs[..count] {
                found(run.start..run.end, run.categories);
            }
            // The walk stops early when `vec` is full. It says how far it came, and without
            // that it would be repeated for ever. A walk that the kernel has gone on with, after
            // it had emptied a buffer of its own, may say too little (seen with 6.18).
            let reported = self.runs[..count].last().map_or(0, |run| run.end);
            let end = arg.walk_end.max(reported);
            if end <= at {
                return Err(SysError::failed("PAGEMAP_SCAN without progress", Errno::IO));
            }
            at = end;
        }
        Ok(())
    }
}

fn scan_error(errno: Errno) -> SysError {
    match errno {
        Errno::NOTTY | Errno::INVAL => SysError::Unsupported {
            what: format!("PAGEMAP_SCAN is not available ({errno})"),
            remedy: format!(
                "Linux 6.7 or newer is needed (this is {})",
                kernel_release()
            ),
        },
        Errno::PERM => SysError::Unsupported {
            what: "a part of the tracked memory is no longer registered".into(),
            remedy: "do not map anything over guest memory while it is migrated".into(),
        },
        errno => SysError::failed("PAGEMAP_SCAN", errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_apart_and_named() {
        let error = scan_error(Errno::NOTTY).to_string();
        assert!(
            error.contains("Linux 6.7 or newer is needed (this is "),
            "{error}"
        );
        assert!(error.contains(&kernel_release()), "{error}");
        let error = scan_error(Errno::PERM).to_string();
        assert!(error.contains("no longer registered"), "{error}");
    }

    #[test]
    fn the_probe_agrees_with_the_version_of_the_kernel() {
        let release = kernel_release();
        let mut parts = release
            .split('.')
            .map_while(|part| part.parse::<u32>().ok());
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        match PagemapScan::probe() {
            Ok(()) => assert!(version >= (6, 7), "{release} has PAGEMAP_SCAN"),
            Err(error) => assert!(version < (6, 7), "{release}: {error}"),
        }
    }

    #[test]
    fn a_process_that_does_not_exist_is_named() {
        let nobody = Pid::from_raw(i32::MAX).unwrap();
        let error = PagemapScan::open(Some(nobody)).unwrap_err().to_string();
        assert!(error.starts_with("/proc/2147483647/pagemap"), "{error}");
    }
}
