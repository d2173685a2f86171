//! A busy guest: one vCPU that computes all the time and writes pages at a steady rate.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::dirty::DirtyMarker;
use pagelift_engine::units::{PAGE_BYTES, PageCount, PageIndex, PageRange, Rate};
use rustix::time::{ClockId, clock_gettime};

/// Bytes that a write changes.
const WIDTH: usize = 64;

/// Pages that are written before the next look at the clock.
const BURST: u32 = 8;

/// A thread that writes to the memory in a file.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: JoinHandle<io::Result<Duration>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    /// Share of its time that the guest does not get, in thousandths.
    throttled: AtomicU16,
}

impl Writer {
    /// Starts to write pages of the file at `path`, anywhere, at `rate`.
    pub(crate) fn start(path: &Path, marker: DirtyMarker, rate: Rate) -> Result<Self> {
        let file = File::options().write(true).open(path);
        let file = file.with_context(|| format!("{}", path.display()))?;
        let pages = file.metadata()?.len() / PAGE_BYTES as u64;
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("vcpu".into())
            .spawn(move || run(&file, pages, &marker, rate, &its))?;
        Ok(Self { shared, thread })
    }

    /// Slows it down.
    pub(crate) fn throttle(&self, share: ThrottleShare) {
        let throttled = &self.shared.throttled;
        throttled.store(share.as_permille(), Ordering::Relaxed);
    }

    /// Stops it; the CPU time that it used.
    pub(crate) fn stop(self) -> Result<Duration> {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        Ok(ended.map_err(|_| anyhow!("the guest's vCPU panicked"))??)
    }
}

fn run(
    file: &File,
    pages: u64,
    marker: &DirtyMarker,
    rate: Rate,
    shared: &Shared,
) -> io::Result<Duration> {
    let mut state = 1_u64;
    let mut due = Instant::now();
    while !shared.stopped.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            let mut content = [0; WIDTH];
            for word in content.chunks_exact_mut(size_of::<u64>()) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            let page = state % pages;
            file.write_all_at(&content, page * PAGE_BYTES as u64)?;
            marker.mark(PageRange {
                first: PageIndex(page),
                count: PageCount(1),
            });
        }
        let took = f64::from(BURST) * PAGE_BYTES as f64 / rate.0.max(1) as f64;
        let throttled = f64::from(shared.throttled.load(Ordering::Relaxed)) / 1000.0;
        due += Duration::from_secs_f64(took / (1.0 - throttled).max(0.01));
        // What it missed while it had no processor is not made up for.
        due = due.max(Instant::now());
        while Instant::now() < due && !shared.stopped.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }
    let cpu = clock_gettime(ClockId::ThreadCPUTime);
    Ok(Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec as u32))
}
