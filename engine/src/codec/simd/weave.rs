//! Short runs of several deltas applied in turns, one of each.
//!
//! Where a run of a delta begins is known when the length before it was loaded, so that a delta by
//! itself waits most of the time. Those of other pages do not wait for it. Each delta has a
//! [lane](Lane): copies of delta and page with room behind them, so that a run costs one test of
//! its lengths, one copy of fixed width, and every other time one test of its place.
//!
//! The width is [`Blend::BYTES`], whatever the length: behind the run's own bytes come those of the
//! page as it was, which are right until the next run is written.
//!
//! Only short runs are done here, one-byte lengths that are not zero; the caller does any other.

use crate::units::PAGE_BYTES;

/// Most lanes that take turns. More gain nothing: from four on it is the number of instructions
/// that counts.
pub const LANES: usize = 4;

/// Longest gap that is passed over here: the largest length of one byte.
const LONGEST_GAP: usize = 0x7f;

/// Bytes of the widest copy.
const WIDEST: usize = 32;

/// Room behind a page: two runs, each shorter than the copy, may begin at its very end unnoticed.
const PAGE_ROOM: usize = 2 * (LONGEST_GAP + WIDEST);

/// Room behind a delta: the last run may claim more literals than there are, and the lengths behind
/// them are read.
const DELTA_ROOM: usize = WIDEST + 2;

/// One delta under way, and the page that it makes.
///
/// Invariants, which the kernels rely on: behind the delta's `length` bytes are `DELTA_ROOM`
/// zeros, `at < length + WIDEST`, and `end <= PAGE_BYTES + PAGE_ROOM`.
#[repr(C)]
#[derive(Debug)]
pub struct Lane {
    page: [u8; PAGE_BYTES + PAGE_ROOM],
    before: [u8; PAGE_BYTES + PAGE_ROOM],
    delta: [u8; PAGE_BYTES + DELTA_ROOM],
    length: usize,
    at: usize,
    end: usize,
}

impl Lane {
    /// A lane of an empty delta.
    pub fn new() -> Box<Self> {
        Box::new(Self {
            page: [0; PAGE_BYTES + PAGE_ROOM],
            before: [0; PAGE_BYTES + PAGE_ROOM],
            delta: [0; PAGE_BYTES + DELTA_ROOM],
            length: 0,
            at: 0,
            end: 0,
        })
    }

    /// Begins with `delta`, to be applied to `page`.
    ///
    /// # Panics
    /// If the delta is longer than a page.
    pub fn load(&mut self, delta: &[u8], page: &[u8; PAGE_BYTES]) {
        self.page[..PAGE_BYTES].copy_from_slice(page);
        self.before[..PAGE_BYTES].copy_from_slice(page);
        let (own, room) = self.delta[..delta.len() + DELTA_ROOM].split_at_mut(delta.len());
        own.copy_from_slice(delta);
        room.fill(0);
        (self.length, self.at, self.end) = (delta.len(), 0, 0);
    }

    /// The delta.
    pub fn delta(&self) -> &[u8] {
        &self.delta[..self.length]
    }

    /// The page, as far as the delta was applied to it.
    pub fn page(&self) -> &[u8; PAGE_BYTES] {
        self.page.first_chunk().expect("a page and room behind it")
    }

    /// Where in the delta the next run begins; beyond it, if the last run was longer than what
    /// there is.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Where in the page the last run ended; beyond it, if it was longer than the page.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Applies a run: `length` bytes of the delta from `from` on, to `to`.
    ///
    /// # Panics
    /// If they are not within delta and page.
    pub fn apply(&mut self, from: usize, to: usize, length: usize) {
        let literals = &self.delta[..self.length][from..from + length];
        self.page[..PAGE_BYTES][to..to + length].copy_from_slice(literals);
        (self.at, self.end) = (from + length, to + length);
    }
}

/// One way to take turns that this machine can run.
#[derive(Clone, Copy, Debug)]
pub struct WeaveKernel {
    pub(super) name: &'static str,
    /// Safe to call on this machine: that is why only the module above makes these.
    pub(super) run: unsafe fn(&mut [Box<Lane>]) -> usize,
}

impl WeaveKernel {
    /// The instruction set's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Applies runs of each of `lanes` in turn until one of them has something else than a short
    /// run next, or is [beyond](Lane::end) its page; which one.
    ///
    /// # Panics
    /// If there are no lanes, or more than [`LANES`].
    pub fn weave(&self, lanes: &mut [Box<Lane>]) -> usize {
        // SAFETY: a kernel is only made after its instructions were detected.
        unsafe { (self.run)(lanes) }
    }
}

/// How the bytes of a run, and what was there before behind them, are put together.
///
/// # Safety
/// Methods may use instructions that not every machine has: they must only be called, inlined,
/// from a function that enables them, and that only after the machine was found to have them.
/// They must write `BYTES` bytes and no others.
pub(super) unsafe trait Blend {
    /// Bytes that are written, one more than the longest run has: 16 or 32.
    const BYTES: usize;

    /// Writes the first `length` of `BYTES` bytes from `literals`, the others from `before`.
    ///
    /// # Safety
    /// `BYTES` bytes must be readable from `literals` and `before` and writable at `to`, and `length`
    /// be less; and see the trait.
    unsafe fn put(literals: *const u8, before: *const u8, length: usize, to: *mut u8);
}

/// See [`WeaveKernel::weave`].
///
/// # Safety
/// See [`Blend`].
#[inline(always)]
pub(super) unsafe fn weave<B: Blend>(lanes: &mut [Box<Lane>]) -> usize {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        match lanes {
            [a] => weave_some::<B, 1>([a]),
            [a, b] => weave_some::<B, 2>([a, b]),
            [a, b, c] => weave_some::<B, 3>([a, b, c]),
            [a, b, c, d] => weave_some::<B, LANES>([a, b, c, d]),
            _ => panic!("{} lanes are not 1 to {LANES}", lanes.len()),
        }
    }
}

/// A lane under way: pointers into it.
#[derive(Clone, Copy)]
struct Cursor {
    /// To the next run in the delta.
    delta: *const u8,
    /// To the end of the last run in the page.
    page: *mut u8,
    /// To the end of the page.
    limit: *mut u8,
}

/// # Safety
/// See [`Blend`].
#[inline(always)]
unsafe fn weave_some<B: Blend, const N: usize>(lanes: [&mut Box<Lane>; N]) -> usize {
    const { assert!(B::BYTES <= WIDEST) };
    let lanes = lanes.map(|lane| &raw mut **lane);
    // SAFETY: the pointers are to lanes, and `at` and `end` within their arrays. All are made from
    // the pointer to the lane, so that they may be used for all of it.
    let mut cursors = lanes.map(|lane| unsafe {
        let page = lane.cast::<u8>();
        Cursor {
            delta: page.add(std::mem::offset_of!(Lane, delta) + (*lane).at),
            page: page.add((*lane).end),
            limit: page.add(PAGE_BYTES),
        }
    });
    let stopped = 'turns: loop {
        for (number, cursor) in cursors.iter_mut().enumerate() {
            // SAFETY: within the page, as is checked here; the delta's part is for `step`.
            if cursor.page > cursor.limit || !unsafe { step::<B>(cursor) } {
                break 'turns number;
            }
        }
        for (number, cursor) in cursors.iter_mut().enumerate() {
            // SAFETY: one run behind the check, for which there is room.
            if !unsafe { step::<B>(cursor) } {
                break 'turns number;
            }
        }
    };
    for (lane, cursor) in lanes.into_iter().zip(cursors) {
        // SAFETY: the cursor's pointers are within this lane.
        unsafe {
            let page = lane.cast::<u8>().cast_const();
            let delta = page.add(std::mem::offset_of!(Lane, delta));
            (*lane).at = cursor.delta.offset_from_unsigned(delta);
            (*lane).end = cursor.page.cast_const().offset_from_unsigned(page);
        }
    }
    stopped
}

/// Applies one run if it is a short one; whether it was.
///
/// If it was, its lengths are within the delta: they are not zero, and behind the delta are zeros.
/// So the next one begins less than [`WIDEST`] bytes behind the delta at most.
///
/// # Safety
/// Of a lane under way, with `cursor.page` at most `LONGEST_GAP + WIDEST` behind its limit; and see
/// [`Blend`].
#[inline(always)]
unsafe fn step<B: Blend>(cursor: &mut Cursor) -> bool {
    // SAFETY: wherever a run may begin, there are two bytes, see `DELTA_ROOM`.
    let lengths = u16::from_le(unsafe { cursor.delta.cast::<u16>().read_unaligned() });
    let lengths = usize::from(lengths);
    // The highest bit of the gap, and those bits of the length that make it `BYTES` or more: they
    // must not be set, nor become set by taking 1 from each, as they do where one is 0.
    let wrong = 0x80 | (0x100 - B::BYTES) << 8;
    if (lengths | lengths.wrapping_sub(0x0101)) & wrong != 0 {
        return false;
    }
    let (gap, length) = (lengths & 0xff, lengths >> 8);
    // SAFETY: the lengths are within the delta, so that behind them is more than the copy of the
    // room; the gap and the copy fit the room behind the page, as the caller vouches.
    unsafe {
        let literals = cursor.delta.add(2);
        let to = cursor.page.add(gap);
        let before = to.add(std::mem::offset_of!(Lane, before));
        B::put(literals, before, length, to);
        cursor.delta = literals.add(length);
        cursor.page = to.add(length);
    }
    true
}
