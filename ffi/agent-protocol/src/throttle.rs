//! What the agent is asked to throttle: which threads, how much, in what rhythm, for how long.

use crate::bytes::{DecodeError, Reader};
use crate::{LEASE_MS, MAX_STOPPED_PERMILLE, MAX_THREADS, PERIOD_US};

/// One thread and the share of the time in which it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadShare {
    /// The thread's id as QEMU sees it, from 1 on.
    pub tid: u32,
    /// Permille of the time in which it is stopped, at most [`MAX_STOPPED_PERMILLE`]; 0 leaves
    /// it alone.
    pub stopped_permille: u16,
}

/// How long a throttle lasts unless it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    millis: u32,
}

impl Lease {
    /// A lease of so many milliseconds.
    ///
    /// # Errors
    /// Outside [`LEASE_MS`].
    pub fn new(millis: u32) -> Result<Self, DecodeError> {
        if LEASE_MS.contains(&millis) {
            Ok(Self { millis })
        } else {
            Err(DecodeError::Field("lease", "must be 10 to 60000 ms"))
        }
    }

    /// Its length in milliseconds.
    pub fn millis(self) -> u32 {
        self.millis
    }
}

/// The throttle that is to be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThrottleRequest {
    threads: Vec<ThreadShare>,
    /// Zero when there is no thread.
    period_us: u32,
    /// None when there is no thread.
    lease: Option<Lease>,
}

impl ThrottleRequest {
    /// Throttles `threads`, stopping each once in `period_us` microseconds. None of them is
    /// the same as [`none`](Self::none).
    ///
    /// # Errors
    /// When a part breaks the limits of the format.
    pub fn new(
        threads: Vec<ThreadShare>,
        period_us: u32,
        lease: Lease,
    ) -> Result<Self, DecodeError> {
        if threads.is_empty() {
            return Ok(Self::none());
        }
        if threads.len() > MAX_THREADS {
            return Err(DecodeError::Field(
                "thread list",
                "has at most 4096 threads",
            ));
        }
        if !PERIOD_US.contains(&period_us) {
            return Err(DecodeError::Field("period", "must be 500 to 50000 us"));
        }
        let mut tids: Vec<u32> = threads.iter().map(|thread| thread.tid).collect();
        tids.sort_unstable();
        if tids[0] == 0 || tids.windows(2).any(|pair| pair[0] == pair[1]) {
            let rule = "must name each thread once, by an id from 1 on";
            return Err(DecodeError::Field("thread list", rule));
        }
        if threads
            .iter()
            .any(|thread| thread.stopped_permille > MAX_STOPPED_PERMILLE)
        {
            return Err(DecodeError::Field("share", "must be 0 to 990 permille"));
        }
        Ok(Self {
            threads,
            period_us,
            lease: Some(lease),
        })
    }

    /// Throttles nothing.
    pub fn none() -> Self {
        Self {
            threads: Vec::new(),
            period_us: 0,
            lease: None,
        }
    }

    /// The threads, each once.
    pub fn threads(&self) -> &[ThreadShare] {
        &self.threads
    }

    /// One stop and one run together, in microseconds: in [`PERIOD_US`], or 0 without threads.
    pub fn period_us(&self) -> u32 {
        self.period_us
    }

    /// How long it lasts unless renewed; `None` without threads.
    pub fn lease(&self) -> Option<Lease> {
        self.lease
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(10 + 6 * self.threads.len());
        bytes.extend_from_slice(&self.period_us.to_le_bytes());
        let lease_ms = self.lease.map_or(0, Lease::millis);
        bytes.extend_from_slice(&lease_ms.to_le_bytes());
        let count = u16::try_from(self.threads.len()).expect("there are at most 4096 threads");
        bytes.extend_from_slice(&count.to_le_bytes());
        for thread in &self.threads {
            bytes.extend_from_slice(&thread.tid.to_le_bytes());
            bytes.extend_from_slice(&thread.stopped_permille.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let period_us = reader.u32()?;
        let lease_ms = reader.u32()?;
        let count = usize::from(reader.u16()?);
        if count == 0 {
            return Ok(Self::none());
        }
        let mut threads = Vec::with_capacity(count.min(MAX_THREADS));
        for _ in 0..count {
            threads.push(ThreadShare {
                tid: reader.u32()?,
                stopped_permille: reader.u16()?,
            });
        }
        Self::new(threads, period_us, Lease::new(lease_ms)?)
    }
}
