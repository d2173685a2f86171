//! Vector kernels: one generic algorithm over a small `Vector` trait, one thin file per
//! instruction set, and a portable vector that works everywhere.
//!
//! Two kernels: the [zero test](ZeroKernel), and the [comparison](DiffKernel) of two pages, which
//! on some machines has a [way to write](Squeezer) what it found. [`available`] and
//! [`available_diff`] list those of the machine this runs on, so that tests can hold each of them
//! against the oracle and benchmarks can compare them; [`fastest`] and [`fastest_diff`] pick one.

#![allow(unsafe_code, reason = "vector instructions and raw loads")]

mod generic;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::units::PAGE_BYTES;

/// Words of 64 bits that hold one bit for each byte of a page.
pub const DIFF_WORDS: usize = PAGE_BYTES / 64;

/// What the generic algorithms need of a vector register.
///
/// # Safety
/// Methods may use instructions that not every machine has: they must only be called, inlined,
/// from a function that enables them, and that only after the machine was found to have them.
unsafe trait Vector: Copy {
    /// Bytes in a register.
    const BYTES: usize;

    /// Loads `BYTES` bytes from any address.
    ///
    /// # Safety
    /// They must be readable; and see the trait.
    unsafe fn load(from: *const u8) -> Self;

    /// Bitwise or.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn or(self, other: Self) -> Self;

    /// Whether no bit is set.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn is_zero(self) -> bool;

    /// One bit for each byte that differs: bit `i` for the byte loaded from the `i`th address.
    /// Bits from `BYTES` on are zero.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn diff(self, other: Self) -> u64;
}

/// One implementation of the zero test that this machine can run.
#[derive(Clone, Copy, Debug)]
pub struct ZeroKernel {
    name: &'static str,
    /// Safe to call on this machine: that is why only this module makes these.
    run: unsafe fn(&[u8]) -> bool,
}

impl ZeroKernel {
    /// The instruction set's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether every byte of `data` is zero. No probes: every byte is looked at, in order, in
    /// steps of 256.
    pub fn is_zero(&self, data: &[u8]) -> bool {
        // SAFETY: a kernel is only made after its instructions were detected.
        unsafe { (self.run)(data) }
    }
}

/// One implementation of the comparison of two pages that this machine can run.
#[derive(Clone, Copy, Debug)]
pub struct DiffKernel {
    name: &'static str,
    /// Safe to call on this machine: that is why only this module makes these.
    run: unsafe fn(&[u8; PAGE_BYTES], &[u8; PAGE_BYTES], &mut [u64; DIFF_WORDS]) -> u64,
    squeezer: Option<Squeezer>,
}

impl DiffKernel {
    /// The instruction set's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Says which bytes differ between two pages.
    ///
    /// Bit `i % 64` of `masks[i / 64]` is set if byte `i` differs; every word is written. The
    /// result has bit `w` set if `masks[w]` is not zero, and so is zero if the pages are equal.
    pub fn diff(
        &self,
        old: &[u8; PAGE_BYTES],
        new: &[u8; PAGE_BYTES],
        masks: &mut [u64; DIFF_WORDS],
    ) -> u64 {
        // SAFETY: a kernel is only made after its instructions were detected.
        unsafe { (self.run)(old, new, masks) }
    }

    /// What writes many short runs at once, where the machine has instructions for it.
    pub fn squeezer(&self) -> Option<Squeezer> {
        self.squeezer
    }
}

/// Writes runs of changed bytes, all those of 64 bytes at once.
#[derive(Clone, Copy, Debug)]
pub struct Squeezer {
    /// Safe to call on this machine: that is why only this module makes these.
    run: unsafe fn(&[u8; 64], u64, u64, &mut [u8; 64]) -> usize,
}

impl Squeezer {
    /// Writes runs, each as the length of the gap before it, its own length, and its bytes of
    /// `new`; how many bytes that were. What is behind them in `out` is overwritten too.
    ///
    /// Bits of `starts` are where runs begin, those of `ends` where they end: first the end of a
    /// run that is not written, then for each run one after its start. At least two bytes must be
    /// between an end and the next start: that is where the lengths come from. What is written
    /// otherwise has no meaning.
    pub fn squeeze(&self, new: &[u8; 64], starts: u64, ends: u64, out: &mut [u8; 64]) -> usize {
        // SAFETY: a squeezer is only made after its instructions were detected.
        unsafe { (self.run)(new, starts, ends, out) }
    }
}

/// The zero tests that this machine can run, the widest last.
pub fn available() -> Vec<ZeroKernel> {
    let mut kernels = vec![ZeroKernel {
        name: "portable",
        run: portable::is_zero,
    }];
    #[cfg(target_arch = "x86_64")]
    x86_64::add_zero(&mut kernels);
    #[cfg(target_arch = "aarch64")]
    kernels.push(ZeroKernel {
        name: "neon",
        // NEON is part of every aarch64 that Linux runs on.
        run: neon::is_zero,
    });
    kernels
}

/// The zero test to use: the widest of the list.
pub fn fastest() -> ZeroKernel {
    *available()
        .last()
        .expect("the portable kernel is always there")
}

/// The comparisons that this machine can run, the widest last.
pub fn available_diff() -> Vec<DiffKernel> {
    let mut kernels = vec![DiffKernel {
        name: "portable",
        run: portable::diff,
        squeezer: None,
    }];
    #[cfg(target_arch = "x86_64")]
    x86_64::add_diff(&mut kernels);
    #[cfg(target_arch = "aarch64")]
    kernels.push(DiffKernel {
        name: "neon",
        // As above.
        run: neon::diff,
        squeezer: None,
    });
    kernels
}

/// The comparison to use: the widest of the list.
pub fn fastest_diff() -> DiffKernel {
    *available_diff()
        .last()
        .expect("the portable kernel is always there")
}
