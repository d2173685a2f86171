//! The sending half of a connection whose rate is capped.

use std::io::{self, IoSlice, Write};
use std::time::{Duration, Instant};

use pagelift_engine::transport::{Gauge, Held};
use pagelift_engine::units::Rate;

use super::cap::{Cap, Gate};

/// A writer that keeps to a cap.
#[derive(Debug)]
pub(super) struct PacedWriter<W> {
    pub(super) inner: W,
    gate: Gate,
}

impl<W: Write> PacedWriter<W> {
    /// Writes to `inner` no faster than the gate's cap lets all its writers together.
    pub(super) fn new(inner: W, gate: Gate) -> Self {
        Self { inner, gate }
    }
}

impl<W: Write> Write for PacedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(most) = self.gate.slice_bytes() else {
            return self.inner.write(bytes);
        };
        let slice = &bytes[..bytes.len().min(most)];
        self.gate.wait_for(slice.len());
        // What the stream does not take is paid for twice; it is less than a slice.
        self.inner.write(slice)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(most) = self.gate.slice_bytes() else {
            return self.inner.write_vectored(parts);
        };
        // Small leading parts (headers) go out with the start of what follows them.
        let mut slices = [IoSlice::new(&[]); 4];
        let mut room = most;
        for (slice, part) in slices.iter_mut().zip(parts) {
            let taken = part.len().min(room);
            *slice = IoSlice::new(&part[..taken]);
            room -= taken;
        }
        self.gate.wait_for(most - room);
        self.inner.write_vectored(&slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
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
