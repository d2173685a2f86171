//! The sending half of a connection whose rate is capped.

use std::io;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use pagelift_engine::transport::{SendHalf, SendQueue, SendStats};
use pagelift_engine::units::{PAGE_BYTES, PageIndex, PageRange};

use super::cap::Gate;

/// Sends no faster than the gate's cap lets all its connections together.
pub(super) struct PacedHalf {
    inner: Box<dyn SendHalf>,
    gate: Gate,
}

impl PacedHalf {
    pub(super) fn new(inner: Box<dyn SendHalf>, gate: Gate) -> Self {
        Self { inner, gate }
    }
}

impl SendHalf for PacedHalf {
    fn lend(&mut self) -> io::Result<BytesMut> {
        self.inner.lend()
    }

    fn send(&mut self, mut bytes: Bytes) -> io::Result<()> {
        // The cap may change between two slices.
        while let Some(most) = self.gate.slice_bytes()
            && !bytes.is_empty()
        {
            let slice = bytes.split_to(most.min(bytes.len()));
            self.gate.wait_for(slice.len());
            self.inner.send(slice)?;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.inner.send(bytes)
    }

    fn is_one_sided(&self) -> bool {
        self.inner.is_one_sided()
    }

    fn can_place(&mut self, runs: &[PageRange]) -> io::Result<bool> {
        self.inner.can_place(runs)
    }

    fn place(&mut self, mut first: PageIndex, mut pages: Bytes) -> io::Result<()> {
        while let Some(most) = self.gate.slice_bytes()
            && !pages.is_empty()
        {
            let most = (most - most % PAGE_BYTES).max(PAGE_BYTES);
            let slice = pages.split_to(most.min(pages.len()));
            self.gate.wait_for(slice.len());
            let next = PageIndex(first.0 + (slice.len() / PAGE_BYTES) as u64);
            self.inner
                .place(std::mem::replace(&mut first, next), slice)?;
        }
        if pages.is_empty() {
            return Ok(());
        }
        self.inner.place(first, pages)
    }

    fn give_back(&mut self, buffer: Bytes) {
        self.inner.give_back(buffer);
    }

    /// What the cap holds back counts like a queue: the fuller of the two says how far the link is
    /// behind.
    fn stats(&mut self) -> SendStats {
        let stats = self.inner.stats();
        let Some(pacer) = self.gate.pacer() else {
            return stats;
        };
        let queues = [stats.queue, Some(pacer.queue(Instant::now()))];
        let fuller = |one: &SendQueue, other: &SendQueue| one.fill().total_cmp(&other.fill());
        SendStats {
            queue: queues.into_iter().flatten().max_by(fuller),
            rate_cap: Some(pacer.rate()),
            ..stats
        }
    }
}
