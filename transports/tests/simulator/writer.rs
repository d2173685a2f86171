//! The guest's processor: what it writes, and where it is between writing and marking.

use std::sync::Arc;

use pagelift_engine::dirty::DirtyMarker;
use pagelift_engine::memory::ReadPages;
use pagelift_engine::units::{Instant, PAGE_BYTES, PageRange};
use pagelift_transports::sim::SimRng;

use super::memory::SimMemory;
use super::plan::Pattern;

/// Most writes at one go, after a long silence: more would only cost time.
const MOST_WRITES: u64 = 200;

/// The guest's processor: writes at a rate in virtual time.
#[derive(Debug)]
pub struct Writer {
    memory: Arc<SimMemory>,
    marker: Option<DirtyMarker>,
    rng: SimRng,
    pattern: Pattern,
    pages: u64,
    writes_per_s: f64,
    /// Share of the time in which it runs.
    speed: f64,
    last: Instant,
    due: f64,
    written: u64,
    /// Written and not marked yet: a writer may be anywhere between the two.
    unmarked: Option<u64>,
}

impl Writer {
    pub fn new(
        memory: &Arc<SimMemory>,
        marker: Option<DirtyMarker>,
        rng: SimRng,
        pattern: Pattern,
        writes_per_s: f64,
        now: Instant,
    ) -> Self {
        Self {
            memory: Arc::clone(memory),
            marker,
            rng,
            pattern,
            pages: memory.layout().pages().0,
            writes_per_s,
            speed: 1.0,
            last: now,
            due: 0.0,
            written: 0,
            unmarked: None,
        }
    }

    /// Fills a share of the memory before anything is tracked.
    pub fn fill(&mut self, share: f64) {
        for page in 0..self.pages {
            if self.rng.unit() < share {
                let word = match self.rng.below(8) {
                    0 => 0,
                    // Content that several pages have.
                    1 => self.rng.below(4) + 1,
                    _ => self.rng.u64(),
                };
                self.memory.store(page, 0, &content(word));
            }
        }
    }

    /// Time passes in which it does not run.
    pub fn sleep_until(&mut self, now: Instant) {
        self.last = now;
    }

    /// Runs for that share of the time from now on.
    pub fn set_speed(&mut self, speed: f64) {
        self.speed = speed;
    }

    /// Does what it would have done by now.
    pub fn run_until(&mut self, now: Instant) {
        self.due += now.since(self.last).as_secs_f64() * self.writes_per_s * self.speed;
        self.last = now;
        let writes = self.due as u64;
        self.due -= writes as f64;
        for _ in 0..writes.min(MOST_WRITES) {
            let page = self.next_page();
            self.write(page);
        }
    }

    /// Writes to `page`, and maybe does not come to marking it for now.
    pub fn write(&mut self, page: u64) {
        self.mark();
        self.written += 1;
        match self.rng.below(16) {
            0 => self.memory.store(page, 0, &[0; PAGE_BYTES]),
            1 => {
                let word = self.rng.u64();
                self.memory.store(page, 0, &content(word));
            }
            _ => {
                let offset = self.rng.below(PAGE_BYTES as u64 / 8) as usize * 8;
                self.memory
                    .store(page, offset, &self.rng.u64().to_le_bytes());
            }
        }
        self.unmarked = Some(page);
        if self.rng.one_in(2) {
            self.mark();
        }
    }

    /// Whether it writes at all.
    pub fn is_active(&self) -> bool {
        self.writes_per_s > 0.0
    }

    /// Comes to marking what it wrote.
    pub fn mark(&mut self) {
        if let (Some(page), Some(marker)) = (self.unmarked.take(), &self.marker) {
            marker.mark(PageRange::new(page, 1));
        }
    }

    fn next_page(&mut self) -> u64 {
        let pages = self.pages;
        match self.pattern {
            Pattern::Uniform => self.rng.below(pages),
            Pattern::Zipf => {
                // Density 1/x over the pages: the hottest is written as often as the next two.
                let at = (pages as f64).powf(self.rng.unit());
                (at as u64).min(pages) - 1
            }
            Pattern::Sequential => self.written % pages,
            Pattern::Phases => {
                let window = (pages / 8).max(1);
                let base = self.written / 500 * window;
                (base + self.rng.below(window)) % pages
            }
        }
    }
}

/// What a page holds that is written whole: one word, text or noise, as `word` says.
fn content(word: u64) -> Vec<u8> {
    match word % 3 {
        0 => word.to_le_bytes().repeat(PAGE_BYTES / 8),
        1 => (0..PAGE_BYTES as u64)
            .map(|at| b"the guest's text"[at as usize % 16] ^ (word >> (at % 61)) as u8 & 3)
            .collect(),
        _ => {
            let mut noise = SimRng::new(word);
            let words = (0..PAGE_BYTES / 8).map(|_| noise.u64().to_le_bytes());
            words.flatten().collect()
        }
    }
}
