//! Which pages of the target the source may write now, and which it asks for.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use pagelift_engine::units::{PageCount, PageRange};

use super::keys::{KeyStream, Record, Window};
use super::verbs::Wake;

#[cfg(test)]
mod tests;

/// Most chunks that a connection has at a time: 64 MiB.
pub(super) const MAX_CHUNKS: usize = 64;

/// Most chunks that are asked for a batch. One whose pages lie scattered goes as a frame: to pin a chunk
/// for a page or two costs more than to copy them.
const MAX_ASKED: usize = 8;

/// How long the target may take to make a chunk accessible, or to pin the next piece of everything.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the source may write.
pub(super) struct Windows {
    stream: KeyStream,
    /// All of memory, in the order of pages; or some chunks, in the order in which they came.
    windows: VecDeque<Known>,
    pinned: Pinned,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    window: Window,
    /// The last request that writes there.
    last_write: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pinned {
    /// In chunks, on demand.
    Chunks,
    /// All of it, which is under way.
    Coming,
    All,
}

impl Windows {
    pub(super) fn new(stream: KeyStream, pin_all: bool) -> Self {
        Self {
            stream,
            windows: VecDeque::new(),
            pinned: if pin_all {
                Pinned::Coming
            } else {
                Pinned::Chunks
            },
        }
    }

    /// Gets what is needed to write the pages of `runs`; whether they may be written. `is_done` says
    /// whether a request is done: no window is given back before.
    ///
    /// # Errors
    /// When the target refuses, or does not answer.
    pub(super) fn open(
        &mut self,
        runs: &[PageRange],
        wake: &Wake,
        is_done: impl Fn(u64) -> bool,
    ) -> io::Result<bool> {
        match self.pinned {
            Pinned::All => return Ok(runs.iter().all(|run| self.covers(*run))),
            Pinned::Coming => {
                while self.pinned == Pinned::Coming {
                    self.hear(wake)?;
                }
                return Ok(runs.iter().all(|run| self.covers(*run)));
            }
            Pinned::Chunks => {}
        }
        let Some(missing) = self.missing(runs) else {
            return Ok(false);
        };
        if missing.is_empty() {
            return Ok(true);
        }
        if !self.make_room(missing.len(), runs, is_done)? {
            return Ok(false);
        }
        for page in &missing {
            self.stream.write(&Record::Wanted(*page))?;
        }
        for _ in &missing {
            self.hear(wake)?;
        }
        // Not all where regions end within a chunk: these go as a frame, and are here the next time.
        Ok(runs.iter().all(|run| self.covers(*run)))
    }

    /// The window that page number `page` is in, for a write of the request `id`.
    pub(super) fn at(&mut self, page: u64, id: u64) -> Option<Window> {
        let found = match self.pinned {
            Pinned::Chunks => self.windows.iter().position(|known| known.holds(page)),
            _ => self.position(page),
        };
        let known = self.windows.get_mut(found?)?;
        known.last_write = id;
        Some(known.window)
    }

    /// The first page of `runs` in each chunk that no window holds; `None` if there are more chunks than
    /// are asked for. A chunk that is cut by the end of a region has several windows, so the target is asked
    /// for what is missing of it: a page that it has told of would bring the same window again.
    fn missing(&self, runs: &[PageRange]) -> Option<Vec<u64>> {
        let mut missing: Vec<u64> = Vec::new();
        for run in runs {
            let mut page = run.first.0;
            while page < run.end() {
                if let Some(known) = self.find(page) {
                    page = known.window.pages.end();
                    continue;
                }
                let chunk = page / CHUNK_PAGES;
                if missing.iter().all(|page| page / CHUNK_PAGES != chunk) {
                    if missing.len() == MAX_ASKED {
                        return None;
                    }
                    missing.push(page);
                }
                // What may be held behind the page is looked at once the window is there.
                page = (chunk + 1) * CHUNK_PAGES;
            }
        }
        Some(missing)
    }

    fn covers(&self, run: PageRange) -> bool {
        let mut page = run.first.0;
        while page < run.end() {
            match self.find(page) {
                Some(known) => page = known.window.pages.end(),
                None => return false,
            }
        }
        true
    }

    fn find(&self, page: u64) -> Option<&Known> {
        match self.pinned {
            Pinned::Chunks => self.windows.iter().find(|known| known.holds(page)),
            _ => self.windows.get(self.position(page)?),
        }
    }

    /// Where the window of a page is, if they are in order.
    fn position(&self, page: u64) -> Option<usize> {
        let behind = self
            .windows
            .partition_point(|known| known.window.pages.first.0 <= page);
        let found = behind.checked_sub(1)?;
        self.windows[found].holds(page).then_some(found)
    }

    /// Gives chunks back, the oldest first, until there is room for `count` more; whether there is: no
    /// chunk that `runs` need is given back, nor one that is being written.
    fn make_room(
        &mut self,
        count: usize,
        runs: &[PageRange],
        is_done: impl Fn(u64) -> bool,
    ) -> io::Result<bool> {
        while self.windows.len() + count > MAX_CHUNKS {
            let needed = |known: &Known| {
                let pages = known.window.pages;
                runs.iter()
                    .any(|run| run.first.0 < pages.end() && pages.first.0 < run.end())
            };
            let oldest = self
                .windows
                .iter()
                .position(|known| is_done(known.last_write) && !needed(known));
            let Some(oldest) = oldest.and_then(|at| self.windows.remove(at)) else {
                return Ok(false);
            };
            let first = oldest.window.pages.first.0;
            self.stream.write(&Record::Done(first))?;
        }
        Ok(true)
    }

    /// Takes one record of the target's.
    fn hear(&mut self, wake: &Wake) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let record = loop {
            wake.check()?;
            match self.stream.rx.read() {
                Ok(record) => break record,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the target does not make its memory accessible",
                ));
            }
        };
        match record {
            Record::Window(window) => {
                let known = Known {
                    window,
                    last_write: 0,
                };
                match self.pinned {
                    Pinned::Chunks => self.windows.push_back(known),
                    // Pieces are pinned side by side, and told in any order.
                    _ => {
                        let first = window.pages.first;
                        let at = self
                            .windows
                            .partition_point(|known| known.window.pages.first < first);
                        self.windows.insert(at, known);
                    }
                }
            }
            Record::Everything if self.pinned == Pinned::Coming => self.pinned = Pinned::All,
            Record::Refused(why) => {
                return Err(io::Error::other(format!(
                    "the target cannot make its memory accessible: {why}"
                )));
            }
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the target says what it was not asked",
                ));
            }
        }
        Ok(())
    }
}

/// Pages of a chunk: 1 MiB, as much as a batch of neighbours twice. Chunks begin at multiples of it.
pub(super) const CHUNK_PAGES: u64 = 256;

impl Known {
    fn holds(&self, page: u64) -> bool {
        let PageRange { first, count } = self.window.pages;
        page >= first.0 && PageCount(page - first.0) < count
    }
}
