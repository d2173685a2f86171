//! Page tables scanned by several threads.
//!
//! A scan of pages that nobody has written takes 1.9 ns a page in one thread: 0.5 s per TiB, during
//! which a stopped guest waits. Threads share it, as far as a thread has enough to do to be worth its
//! start. They take small pieces one after the other, so that none is left alone with the dear ones.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use rustix::process::Pid;

use super::{DirtyError, TrackedRange};
use crate::sys::{Marks, PagemapScan, SysError};
use crate::units::{PAGE_BYTES, PageRange};

/// Most threads that a scan is shared by. Each walk holds the lock of the process's mappings, shared,
/// and with more of them the lock itself is what they wait for.
const MAX_THREADS: usize = 16;

/// Memory of a thread's own: answers of the kernel, and runs that are handed on, full and under way.
pub(crate) const SCANNER_BYTES: u64 = 24 * 1024 + 4 * RUNS as u64 * size_of::<PageRange>() as u64;

/// Least memory that is worth a thread: its scan takes 200 to 500 us, and its start 100 to 300
/// (docs/benchmarks/scale.md).
const THREAD_BYTES: u64 = 1 << 30;

/// Runs that a thread hands on at a time.
const RUNS: usize = 1024;

/// The page map of a process, open once for each thread that scans it.
#[derive(Debug)]
pub(super) struct Scanners {
    pid: Option<Pid>,
    scans: Vec<PagemapScan>,
}

/// Addresses to scan, a part of those of the range.
pub(super) type Piece = (TrackedRange, Range<u64>);

impl Scanners {
    /// As many as there are processors.
    pub(super) fn open(pid: Option<Pid>) -> Result<Self, SysError> {
        let mut own = Self {
            pid,
            scans: Vec::new(),
        };
        let threads = NonZeroUsize::new(max_scan_threads()).unwrap_or(NonZeroUsize::MIN);
        own.set_threads(threads)?;
        Ok(own)
    }

    /// Scans by at most `threads` threads from now on.
    pub(super) fn set_threads(&mut self, threads: NonZeroUsize) -> Result<(), SysError> {
        let threads = threads.get().min(MAX_THREADS);
        self.scans.truncate(threads);
        while self.scans.len() < threads {
            self.scans.push(PagemapScan::open(self.pid)?);
        }
        Ok(())
    }

    /// For a scan by this thread alone.
    pub(super) fn one(&mut self) -> &mut PagemapScan {
        &mut self.scans[0]
    }

    /// Calls `found` for each run of written pages in `areas` after they have been protected again, in
    /// no order; see [`PagemapScan::written`]. Does `meanwhile` as well, in this thread. A thread takes
    /// `piece_bytes` at a time, a multiple of the mapping's page size.
    pub(super) fn written(
        &mut self,
        areas: &[Piece],
        piece_bytes: u64,
        meanwhile: impl FnOnce() -> Result<(), DirtyError>,
        found: &mut dyn FnMut(PageRange),
    ) -> Result<(), DirtyError> {
        let bytes: u64 = areas.iter().map(|(_, area)| area.end - area.start).sum();
        let threads = usize::try_from(bytes / THREAD_BYTES).unwrap_or(usize::MAX);
        let threads = threads.min(self.scans.len());
        if threads < 2 {
            let scan = &mut self.scans[0];
            for piece in areas {
                scan_piece(scan, piece, &mut *found)?;
            }
            return meanwhile();
        }
        let pieces = in_pieces(areas, piece_bytes);
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (hand_on, runs) = sync_channel(2 * threads);
            for scan in &mut self.scans[..threads] {
                let (hand_on, pieces, next) = (hand_on.clone(), &pieces, &next);
                let work = move || scan_pieces(scan, pieces, next, &hand_on);
                let started = thread::Builder::new().name("pagelift-scan".into());
                started.spawn_scoped(scope, work).map_err(no_thread)?;
            }
            drop(hand_on);
            // When one fails the receiver goes, and with it the others come to their end.
            meanwhile()?;
            for some in runs {
                some?.into_iter().for_each(&mut *found);
            }
            Ok(())
        })
    }
}

/// Threads of a scan where nobody says how many: one for each processor, as far as more are of use.
pub(crate) fn max_scan_threads() -> usize {
    thread::available_parallelism().map_or(1, |processors| processors.get().min(MAX_THREADS))
}

fn no_thread(source: std::io::Error) -> DirtyError {
    DirtyError::Kernel {
        call: "starting a thread that scans page tables",
        source,
    }
}

/// `areas` in pieces that end where a multiple of `piece_bytes` is, so that no page is cut.
fn in_pieces(areas: &[Piece], piece_bytes: u64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (tracked, area) in areas {
        let mut at = area.start;
        while at < area.end {
            let end = ((at / piece_bytes + 1) * piece_bytes).min(area.end);
            pieces.push((*tracked, at..end));
            at = end;
        }
    }
    pieces
}

/// Scans one piece after the other, until none is left or nobody wants to know.
fn scan_pieces(
    scan: &mut PagemapScan,
    pieces: &[Piece],
    next: &AtomicUsize,
    hand_on: &SyncSender<Result<Vec<PageRange>, SysError>>,
) {
    let mut runs = Vec::with_capacity(RUNS);
    let mut wanted = true;
    while wanted && let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
        let scanned = scan_piece(scan, piece, &mut |run| {
            runs.push(run);
            if runs.len() == RUNS {
                let full = std::mem::replace(&mut runs, Vec::with_capacity(RUNS));
                wanted &= hand_on.send(Ok(full)).is_ok();
            }
        });
        if let Err(error) = scanned {
            let _ = hand_on.send(Err(error));
            return;
        }
    }
    if !runs.is_empty() {
        let _ = hand_on.send(Ok(runs));
    }
}

fn scan_piece(
    scan: &mut PagemapScan,
    (tracked, area): &Piece,
    found: &mut dyn FnMut(PageRange),
) -> Result<(), SysError> {
    debug_assert_eq!(area.start % PAGE_BYTES as u64, 0, "whole pages");
    scan.written(area.clone(), Marks::Clear, |run| found(tracked.pages(run)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_of_the_areas_once() {
        let tracked = TrackedRange {
            address: 0x1000,
            range: PageRange::new(0, 1 << 20),
        };
        let areas = [(tracked, 0x1000..0x2000), (tracked, 0x3000..0x1234_5000)];
        let pieces = in_pieces(&areas, 64 << 20);
        assert_eq!(pieces[0].1, 0x1000..0x2000);
        assert_eq!(pieces[1].1, 0x3000..64 << 20);
        assert!(
            pieces[1..]
                .windows(2)
                .all(|two| two[0].1.end == two[1].1.start)
        );
        assert_eq!(pieces[pieces.len() - 1].1.end, 0x1234_5000);
        assert_eq!(pieces.len(), 6);
    }
}
