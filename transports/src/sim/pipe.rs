//! One direction of a simulated connection.

use std::collections::VecDeque;
use std::io;

use pagelift_engine::units::Instant;

/// When nothing arrives any more.
const NEVER: Instant = Instant(u64::MAX);

/// Bytes that arrive together.
#[derive(Debug)]
struct Segment {
    arrives: Instant,
    bytes: Vec<u8>,
    /// How many of them were read.
    read: usize,
}

/// Bytes under way from a writer to a reader.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    segments: VecDeque<Segment>,
    /// Bytes in `segments` that were not read.
    under_way: u64,
    /// Order is kept: nothing arrives before what was written earlier.
    last_arrival: Instant,
    /// Nothing arrives before this.
    held_until: Instant,
    /// When the reader notices that the writer has closed.
    ends: Option<Instant>,
    /// When the writer notices that the reader has closed. What it writes before that is lost.
    reader_closed: Option<Instant>,
    /// Both ends fail.
    reset: bool,
    /// The next byte written is to be damaged.
    damage_next: bool,
}

impl Pipe {
    /// Takes bytes that would arrive at `arrives` if nothing were in the way.
    pub(super) fn write(&mut self, now: Instant, arrives: Instant, bytes: &[u8]) -> io::Result<()> {
        if self.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.ends.is_some() || self.reader_closed.is_some_and(|since| since <= now) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.reader_closed.is_some() || bytes.is_empty() {
            return Ok(());
        }
        let arrives = arrives.max(self.last_arrival).max(self.held_until);
        self.last_arrival = arrives;
        self.under_way += bytes.len() as u64;
        let mut bytes = bytes.to_vec();
        if std::mem::take(&mut self.damage_next) {
            bytes[0] ^= 0x10;
        }
        self.segments.push_back(Segment {
            arrives,
            bytes,
            read: 0,
        });
        Ok(())
    }

    /// Gives bytes that have arrived; 0 of them at the stream's end.
    pub(super) fn read(&mut self, now: Instant, out: &mut [u8]) -> io::Result<usize> {
        if self.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.reader_closed.is_some() {
            return Ok(0);
        }
        let mut filled = 0;
        while filled < out.len()
            && let Some(first) = self.segments.front_mut()
            && first.arrives <= now
        {
            let rest = &first.bytes[first.read..];
            let count = rest.len().min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&rest[..count]);
            filled += count;
            first.read += count;
            self.under_way -= count as u64;
            if first.read == first.bytes.len() {
                self.segments.pop_front();
            }
        }
        let ended = self.segments.is_empty() && self.ends.is_some_and(|at| at <= now);
        if filled == 0 && !ended && !out.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(filled)
    }

    /// The writer closes; the end arrives after everything else.
    pub(super) fn end(&mut self, arrives: Instant) {
        let arrives = arrives.max(self.last_arrival).max(self.held_until);
        self.ends.get_or_insert(arrives);
    }

    /// The reader closes; what is under way is lost.
    pub(super) fn stop_reading(&mut self, noticed: Instant) {
        let noticed = noticed.max(self.held_until);
        self.reader_closed.get_or_insert(noticed);
        self.segments.clear();
        self.under_way = 0;
    }

    /// Both ends fail from now on; what is under way is lost.
    pub(super) fn reset(&mut self) {
        self.reset = true;
        self.segments.clear();
        self.under_way = 0;
    }

    /// Nothing arrives before `until`, which only ever moves on.
    pub(super) fn hold(&mut self, now: Instant, until: Instant) {
        self.held_until = self.held_until.max(until);
        let coming = |at: &Instant| *at > now;
        for segment in self.segments.iter_mut().filter(|s| coming(&s.arrives)) {
            segment.arrives = segment.arrives.max(until);
        }
        self.last_arrival = self
            .segments
            .back()
            .map_or(self.last_arrival, |s| s.arrives);
        if let Some(at) = self.ends.as_mut().filter(|at| coming(at)) {
            *at = (*at).max(until);
        }
        if let Some(at) = self.reader_closed.as_mut().filter(|at| coming(at)) {
            *at = (*at).max(until);
        }
    }

    /// Flips a bit of the byte under way that `place` names, or of the next one written.
    pub(super) fn damage(&mut self, now: Instant, place: u64) {
        let coming: u64 = self
            .coming(now)
            .map(|segment| segment.bytes.len() as u64)
            .sum();
        if coming == 0 {
            self.damage_next = true;
            return;
        }
        let mut place = place % coming;
        for segment in &mut self.segments {
            let length = segment.bytes.len() as u64;
            if segment.arrives <= now {
                continue;
            }
            if place < length {
                segment.bytes[usize::try_from(place).unwrap_or(0)] ^= 0x10;
                return;
            }
            place -= length;
        }
    }

    fn coming(&self, now: Instant) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(move |s| s.arrives > now)
    }

    /// When the next change arrives at either end.
    pub(super) fn next_event(&self, now: Instant) -> Option<Instant> {
        let bytes = self.segments.front().map(|segment| segment.arrives);
        [bytes, self.ends, self.reader_closed]
            .into_iter()
            .flatten()
            .filter(|at| *at > now && *at < NEVER)
            .min()
    }

    /// Bytes written and not read.
    pub(super) fn under_way(&self) -> u64 {
        self.under_way
    }

    /// Whether it still carries bytes from one end to the other.
    pub(super) fn is_open(&self) -> bool {
        !self.reset && self.ends.is_none() && self.reader_closed.is_none()
    }
}
