//! Vector kernels: one generic algorithm over a small [`Vector`] trait, one thin file per
//! instruction set, and a portable vector that works everywhere.
//!
//! [`available`] lists the kernels of the machine this runs on, so that tests can hold each of
//! them against the oracle and benchmarks can compare them; [`fastest`] picks one.

#![allow(unsafe_code, reason = "vector instructions and raw loads")]

mod generic;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_64;

/// What the generic algorithm needs of a vector register.
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
    /// steps of four registers.
    pub fn is_zero(&self, data: &[u8]) -> bool {
        // SAFETY: a kernel is only made after its instructions were detected.
        unsafe { (self.run)(data) }
    }
}

/// The kernels that this machine can run, the widest last.
pub fn available() -> Vec<ZeroKernel> {
    let mut kernels = vec![ZeroKernel {
        name: "portable",
        run: portable::is_zero,
    }];
    #[cfg(target_arch = "x86_64")]
    x86_64::add_available(&mut kernels);
    #[cfg(target_arch = "aarch64")]
    kernels.push(ZeroKernel {
        name: "neon",
        // NEON is part of every aarch64 that Linux runs on.
        run: neon::is_zero,
    });
    kernels
}

/// The kernel to use: the widest of the list.
pub fn fastest() -> ZeroKernel {
    *available()
        .last()
        .expect("the portable kernel is always there")
}
