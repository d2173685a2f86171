//! The guest's memory on the target, as far as the source may write it.

#![allow(unsafe_code, reason = "the guest's memory is registered with a device")]

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use pagelift_engine::memory::{GuestMemory, Layout, MapPages};
use pagelift_engine::units::{PAGE_BYTES, PageRange};
use tracing::info;

use super::keys::Window;
use super::verbs::{Access, Device, Registered};
use super::windows::CHUNK_PAGES;

/// Bytes that a thread pins at a time when all is pinned: some ten milliseconds of work.
const PIECE_BYTES: u64 = 64 << 20;

/// Most threads that pin.
const MAX_THREADS: usize = 8;

/// Time between two lines about how much is pinned.
const PROGRESS: Duration = Duration::from_secs(2);

/// What is registered of a guest's memory, by all connections of a target.
#[derive(Default)]
pub(super) struct Exposure {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Nothing is registered any more.
    closed: bool,
    registered: Vec<(Window, Registered)>,
    pinning: Pinning,
}

#[derive(Default)]
enum Pinning {
    #[default]
    NotBegun,
    UnderWay,
    Done,
    Failed(String),
}

impl Exposure {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all access away.
    pub(super) fn close(&self) -> io::Result<()> {
        let mut state = self.state();
        state.closed = true;
        let mut result = Ok(());
        state.registered.retain_mut(|(_, registered)| {
            let ended = registered.deregister();
            let is_kept = ended.is_err();
            if is_kept {
                result = ended;
            }
            is_kept
        });
        self.changed.notify_all();
        result
    }

    /// Registers `pages`, which lie in one region.
    pub(super) fn register(
        &self,
        memory: &dyn MapPages,
        device: &'static Device,
        pages: PageRange,
    ) -> io::Result<Window> {
        let layout = memory.layout();
        let span = layout.spans(pages).next();
        let span = span.filter(|_| layout.contains(pages));
        let span = span.ok_or(io::ErrorKind::InvalidInput)?;
        let start = memory.region_start(span.region);
        let start = start.wrapping_add(usize::try_from(span.offset).map_err(io::Error::other)?);
        // SAFETY: memory stays mapped as long as it lives, and the exposure's users keep it alive
        // longer than what is registered; no Rust reference is made to it (`MapPages::region_start`).
        let registered =
            unsafe { device.register(start, span.range.len_bytes(), Access::RemoteWrite) }?;
        let window = Window {
            pages: span.range,
            address: registered.addresses().start,
            key: registered.remote_key(),
        };
        let mut state = self.state();
        if state.closed {
            // Nobody has heard of the key.
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        state.registered.push((window, registered));
        self.changed.notify_all();
        Ok(window)
    }

    /// Registers all of `memory` unless that is under way already. Calls `told` with each window as soon as
    /// it is there, until it has heard of all.
    ///
    /// # Errors
    /// When it cannot be registered, or what `told` gives.
    pub(super) fn pin_all(
        self: &Arc<Self>,
        memory: &Arc<dyn GuestMemory>,
        device: &'static Device,
        mut told: impl FnMut(Window) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = self.state();
        if matches!(state.pinning, Pinning::NotBegun) {
            let (exposure, memory) = (Arc::clone(self), Arc::clone(memory));
            thread::Builder::new()
                .name("pagelift-pin".into())
                .spawn(move || {
                    let result = exposure.pin_pieces(&memory, device);
                    exposure.state().pinning = match result {
                        Ok(()) => Pinning::Done,
                        Err(error) => Pinning::Failed(error.to_string()),
                    };
                    exposure.changed.notify_all();
                })?;
            // It waits for the lock before it says how that ended.
            state.pinning = Pinning::UnderWay;
        }
        // While all is pinned, windows are only added.
        let mut heard = 0;
        loop {
            if state.closed {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            if let Some((window, _)) = state.registered.get(heard) {
                let window = *window;
                drop(state);
                told(window)?;
                heard += 1;
                state = self.state();
                continue;
            }
            match &state.pinning {
                Pinning::Done => return Ok(()),
                Pinning::Failed(why) => return Err(io::Error::other(why.clone())),
                Pinning::NotBegun | Pinning::UnderWay => {
                    let waited = self.changed.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Registers all of memory piece by piece, in some threads.
    fn pin_pieces(&self, memory: &Arc<dyn GuestMemory>, device: &'static Device) -> io::Result<()> {
        let pieces = pieces(memory.layout(), device.limits.region_bytes);
        if pieces.len() > device.limits.regions as usize {
            return Err(io::Error::other(format!(
                "{} registers at most {} pieces of memory, and the guest's has {}",
                device.name(),
                device.limits.regions,
                pieces.len()
            )));
        }
        let total: u64 = pieces.iter().map(|piece| piece.bytes().0).sum();
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let began = std::time::Instant::now();
        let next = Mutex::new((pieces.iter(), 0u64, began));
        let pin = || -> io::Result<()> {
            let memory = mapped(&**memory)?;
            let next_piece = || {
                let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                next.0.next().copied()
            };
            while let Some(piece) = next_piece() {
                self.register(memory, device, piece)?;
                let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                next.1 += piece.bytes().0;
                if next.2.elapsed() >= PROGRESS {
                    next.2 = std::time::Instant::now();
                    info!(
                        pinned_mib = next.1 >> 20,
                        of_mib = total >> 20,
                        "pinning memory"
                    );
                }
            }
            Ok(())
        };
        let threads = threads.min(MAX_THREADS).min(pieces.len());
        thread::scope(|scope| {
            let mut pinning = Vec::with_capacity(threads);
            for _ in 0..threads {
                pinning.push(scope.spawn(pin));
            }
            let mut result = Ok(());
            for thread in pinning {
                let panicked = |_| Err(io::Error::other("a thread that pins memory panicked"));
                let ended = thread.join().unwrap_or_else(panicked);
                result = result.and(ended);
            }
            result
        })?;
        info!(
            mib = total >> 20,
            ms = began.elapsed().as_millis(),
            "all memory is pinned"
        );
        Ok(())
    }

    /// A chunk that a connection does not need any more.
    pub(super) fn release(&self, window: Window) -> io::Result<()> {
        let mut state = self.state();
        let found = state
            .registered
            .iter()
            .position(|(known, _)| *known == window);
        match found.map(|at| state.registered.swap_remove(at)) {
            Some((_, mut registered)) => registered.deregister(),
            None => Ok(()),
        }
    }
}

/// All memory in pieces that lie in one region and are no longer than `most_bytes`.
fn pieces(layout: &Layout, most_bytes: u64) -> Vec<PageRange> {
    let page = PAGE_BYTES as u64;
    let most = (most_bytes.min(PIECE_BYTES) / page).max(1);
    let regions = (0..layout.regions().len()).map(|region| layout.region_range(region));
    let pieces = regions.flat_map(|region| {
        let starts = (region.first.0..region.end()).step_by(most as usize);
        starts.map(move |first| PageRange::new(first, most.min(region.end() - first)))
    });
    pieces.collect()
}

/// The pages of the chunk around `page` that lie in the same region.
pub(super) fn chunk_around(layout: &Layout, page: u64) -> Option<PageRange> {
    let chunk = page / CHUNK_PAGES * CHUNK_PAGES;
    let mut regions = (0..layout.regions().len()).map(|region| layout.region_range(region));
    let region = regions.find(|region| (region.first.0..region.end()).contains(&page))?;
    let first = chunk.max(region.first.0);
    let end = (chunk + CHUNK_PAGES).min(region.end());
    Some(PageRange::new(first, end - first))
}

/// Where the memory is in this process.
///
/// # Errors
/// When it is not mapped.
pub(super) fn mapped(memory: &dyn GuestMemory) -> io::Result<&dyn MapPages> {
    memory.map_pages().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            "the guest's memory is not mapped into this process, as RDMA needs it",
        )
    })
}

#[cfg(test)]
mod tests {
    use pagelift_engine::memory::Region;
    use pagelift_engine::units::{ByteCount, PageCount};

    use super::*;

    #[test]
    fn chunks_and_pieces_end_with_their_region() {
        let regions = [300, 700].map(|pages| Region {
            name: format!("of {pages} pages"),
            pages: PageCount(pages),
            backing_page: ByteCount(PAGE_BYTES as u64),
        });
        let layout = Layout::new(regions.into()).unwrap();
        let chunk = |page| chunk_around(&layout, page);
        assert_eq!(chunk(0), Some(PageRange::new(0, 256)));
        assert_eq!(chunk(299), Some(PageRange::new(256, 44)));
        assert_eq!(chunk(300), Some(PageRange::new(300, 212)));
        assert_eq!(chunk(999), Some(PageRange::new(768, 232)));
        assert_eq!(chunk(1000), None);
        let pieces = pieces(&layout, 256 * PAGE_BYTES as u64);
        let starts: Vec<_> = pieces.iter().map(|piece| piece.first.0).collect();
        assert_eq!(starts, [0, 256, 300, 556, 812]);
        assert_eq!(pieces.iter().map(|piece| piece.count.0).sum::<u64>(), 1000);
    }
}
