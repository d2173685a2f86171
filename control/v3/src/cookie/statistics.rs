//! What a migration has done, as the source counts it and the target completes it.

use crate::xml::{Element, Malformed, Writer};

/// The names of all numbers, in the order in which they are written. Times are in ms, amounts in bytes,
/// rates in bytes a second; `started`, `stopped` and `sent` are the host's clock since 1970.
pub const STATISTICS: [&str; 28] = [
    "started",
    "stopped",
    "sent",
    "delta",
    "time_elapsed",
    "downtime",
    "setup_time",
    "memory_total",
    "memory_processed",
    "memory_remaining",
    "memory_bps",
    "memory_constant",
    "memory_normal",
    "memory_normal_bytes",
    "memory_dirty_rate",
    "memory_iteration",
    "memory_postcopy_requests",
    "memory_page_size",
    "disk_total",
    "disk_processed",
    "disk_remaining",
    "disk_bps",
    "compression_cache",
    "compression_bytes",
    "compression_pages",
    "compression_cache_misses",
    "compression_overflow",
    "auto_converge_throttle",
];

/// Numbers by their names in [`STATISTICS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics([Option<u64>; STATISTICS.len()]);

impl Statistics {
    /// A number, if it is known. A name that is not in [`STATISTICS`] has none.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0[place(name)?]
    }

    /// Sets a number. A name that is not in [`STATISTICS`] is passed over.
    pub fn set(&mut self, name: &str, number: u64) {
        if let Some(at) = place(name) {
            self.0[at] = Some(number);
        }
    }

    /// The numbers that are known, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        STATISTICS
            .into_iter()
            .zip(self.0)
            .filter_map(|(name, n)| Some((name, n?)))
    }

    /// What the target makes of the source's numbers when the guest runs there, `now` in ms since 1970.
    ///
    /// The time since the source sent them belongs to the downtime and to the whole. The clocks of two
    /// hosts differ; what cannot be is taken as no time at all.
    #[must_use]
    pub fn completed_on_target(mut self, now: u64) -> Self {
        let since = self.get("sent").map_or(0, |sent| now.saturating_sub(sent));
        self.set("delta", since);
        let stopped = self.get("stopped").unwrap_or(0) != 0;
        for (name, counts) in [("time_elapsed", true), ("downtime", stopped)] {
            if let Some(number) = self.get(name).filter(|_| counts) {
                self.set(name, number.saturating_add(since));
            }
        }
        self
    }

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let mut statistics = Self::default();
        for name in STATISTICS {
            if let Some(text) = element.text_of(name)? {
                statistics.set(
                    name,
                    text.trim().parse().map_err(|_| element.invalid(text))?,
                );
            }
        }
        Ok(statistics)
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.element("statistics").body(|w| {
            for (name, number) in self.iter() {
                w.element(name).text(number);
            }
        });
    }
}

fn place(name: &str) -> Option<usize> {
    STATISTICS.iter().position(|n| *n == name)
}
