//! Several deltas at a time: those of many runs take turns.
//!
//! Each of up to [`LANES`] deltas of many runs is applied to a copy of its page, in a lane, one
//! short run of each in turn. Any other run is done here, and a lane whose delta has come to its
//! end is given the next. Deltas of few runs are applied one by one: what costs is not the waiting.
//!
//! What is wrong with a delta says [`decode`], which is the only judge of that: the lane just goes
//! no further.

use super::super::simd::{self, LANES, Lane, WeaveKernel};
use super::decode::{Runs, Way, XbzrleError, apply_few, decode, survey};
use crate::units::PAGE_BYTES;

/// What a [`BatchDecoder`] takes.
pub const BATCH_BYTES: u64 = 52 << 10;

/// One of several deltas is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("delta {number}: {error}")]
pub struct BatchError {
    /// Which one, from 0.
    pub number: usize,
    /// What is wrong with it.
    pub error: XbzrleError,
}

/// Applies deltas, several at a time, in buffers that are allocated once.
#[derive(Debug)]
pub struct BatchDecoder {
    kernel: WeaveKernel,
    lanes: [Box<Lane>; LANES],
}

impl BatchDecoder {
    /// A decoder. Memory: [`BATCH_BYTES`].
    pub fn new() -> Self {
        Self::with_kernel(simd::fastest_weave())
    }

    /// One with a kernel of the caller's choice; what it does not depend on it.
    pub fn with_kernel(kernel: WeaveKernel) -> Self {
        Self {
            kernel,
            lanes: std::array::from_fn(|_| Lane::new()),
        }
    }

    /// Applies each of `deltas` to its page of `pages`, which must hold what the encoder had as the
    /// old content.
    ///
    /// # Errors
    /// When one of the deltas is malformed; the first that was found is named. Its page is as it
    /// was, and of the others each is as it was or as it shall be.
    ///
    /// # Panics
    /// If there are not as many pages as deltas.
    pub fn decode(
        &mut self,
        deltas: &[&[u8]],
        pages: &mut [[u8; PAGE_BYTES]],
    ) -> Result<(), BatchError> {
        assert_eq!(deltas.len(), pages.len(), "a page for each delta");
        let mut next = 0;
        // The delta in each lane, and how many lanes have one: they are the first.
        let mut numbers = [0; LANES];
        let mut busy = 0;
        loop {
            while busy < LANES && next < deltas.len() {
                let number = next;
                next += 1;
                if is_woven(deltas[number], &mut pages[number])
                    .map_err(|error| BatchError { number, error })?
                {
                    self.lanes[busy].load(deltas[number], &pages[number]);
                    numbers[busy] = number;
                    busy += 1;
                }
            }
            if busy == 0 {
                return Ok(());
            }
            let stopped = self.kernel.weave(&mut self.lanes[..busy]);
            let lane = &mut self.lanes[stopped];
            let number = numbers[stopped];
            match go_on(lane) {
                Step::Applied => continue,
                Step::Done => pages[number] = *lane.page(),
                Step::Refused => decode(deltas[number], &mut pages[number])
                    .map_err(|error| BatchError { number, error })?,
            }
            busy -= 1;
            self.lanes.swap(stopped, busy);
            numbers.swap(stopped, busy);
        }
    }
}

impl Default for BatchDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether `delta` has many runs. If not, it is applied.
fn is_woven(delta: &[u8], page: &mut [u8; PAGE_BYTES]) -> Result<bool, XbzrleError> {
    match survey(delta, PAGE_BYTES)? {
        Way::Many(_) => Ok(true),
        few => apply_few(few, page).map(|()| false),
    }
}

/// What became of a lane that has something else than a short run next.
enum Step {
    /// A run was applied, and others may follow.
    Applied,
    /// The delta is at its end.
    Done,
    /// Something is wrong with it.
    Refused,
}

/// Applies the next run, whatever it is like.
#[inline(never)]
fn go_on(lane: &mut Lane) -> Step {
    if lane.at() > lane.delta().len() || lane.end() > PAGE_BYTES {
        return Step::Refused;
    }
    let mut runs = Runs {
        delta: lane.delta(),
        page_bytes: PAGE_BYTES,
        at: lane.at(),
        end: lane.end(),
    };
    match runs.next() {
        Ok(Some(run)) => {
            lane.apply(run.from, run.to, run.length);
            Step::Applied
        }
        Ok(None) => Step::Done,
        Err(_) => Step::Refused,
    }
}
