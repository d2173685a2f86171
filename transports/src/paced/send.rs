//! The sending half of a connection whose rate is capped.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pagelift_engine::transport::{Gauge, Held, SendHalf};
use pagelift_engine::units::Rate;

use super::cap::{Cap, Gate};

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

    fn give_back(&mut self, buffer: Bytes) {
        self.inner.give_back(buffer);
    }
}

/// Looks at what the cap holds back, and at the connection beneath. What is held back counts like a
/// queue: the fuller of the two says how far the link is behind.
pub(super) struct PacedGauge {
    inner: Box<dyn Gauge>,
    cap: Cap,
}

impl PacedGauge {
    pub(super) fn new(inner: Box<dyn Gauge>, cap: Cap) -> Self {
        Self { inner, cap }
    }
}

impl Gauge for PacedGauge {
    fn look(&mut self) -> Option<Held> {
        let paced = self.cap.pacer().map(|pacer| pacer.held(Instant::now()));
        let filling = |held: &Held| held.bytes as f64 / held.room_bytes as f64;
        [self.inner.look(), paced]
            .into_iter()
            .flatten()
            .max_by(|one, other| filling(one).total_cmp(&filling(other)))
    }

    fn carried(&self) -> Option<Duration> {
        self.inner.carried()
    }

    fn cap(&self) -> Option<Rate> {
        self.cap.rate().or_else(|| self.inner.cap())
    }
}
