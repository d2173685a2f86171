//! Copying to and from memory that others write at the same time.
//!
//! A guest, or another thread, may write what is being copied. With ordinary Rust loads (and
//! with `copy_nonoverlapping`, which stands for them) that would be a data race, which is
//! undefined behaviour and no mere torn copy. What is done instead stands for single-byte atomic
//! operations, `Relaxed`:
//!
//! - On x86-64 an assembly block moves the bytes. The compiler must assume of it whatever Rust
//!   code could do within the rules, such as a loop of relaxed atomic bytes, and it never sees a
//!   plain access. `rep movs` is the processor's own fast copy (ERMS, FSRM).
//! - Elsewhere the loop is written out, word by word where both sides are aligned.
//!
//! So a copy may mix old and new bytes, but is a defined value. Whoever needs more orders it by
//! other means: here by the dirty mark that each write sets.

#![allow(unsafe_code, reason = "guest memory is reached through raw pointers")]

/// Copies `out.len()` bytes from `from`.
///
/// # Safety
/// They must be readable through `from`. All concurrent writes in this process must be atomic, or
/// come from outside of Rust (a guest, the kernel).
pub(super) unsafe fn load(from: *const u8, out: &mut [u8]) {
    // SAFETY: `out` is ours alone; the caller vouches for `from`.
    unsafe { copy(from, out.as_mut_ptr(), out.len()) }
}

/// Copies `data` to `to`.
///
/// # Safety
/// As many bytes must be writable through `to`. All concurrent accesses in this process must be
/// atomic, or come from outside of Rust.
pub(super) unsafe fn store(data: &[u8], to: *mut u8) {
    // SAFETY: `data` does not change; the caller vouches for `to`.
    unsafe { copy(data.as_ptr(), to, data.len()) }
}

#[cfg(target_arch = "x86_64")]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller vouches for both sides. The direction flag is clear in every Rust and C
    // function, by the calling convention.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller vouches for both sides.
    unsafe { copy_atomically(from, to, len) }
}

/// What the assembly stands for. In tests on every machine, so that it is held to the same.
#[cfg(any(test, not(target_arch = "x86_64")))]
unsafe fn copy_atomically(from: *const u8, to: *mut u8, len: usize) {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
    let word_bytes = size_of::<u64>();
    if (from.addr() | to.addr() | len).is_multiple_of(word_bytes) {
        for at in (0..len).step_by(word_bytes) {
            // SAFETY: within both sides, and aligned. The side that is ours alone is accessed
            // atomically too, which is always allowed.
            unsafe {
                let word = AtomicU64::from_ptr(from.add(at).cast_mut().cast()).load(Relaxed);
                AtomicU64::from_ptr(to.add(at).cast()).store(word, Relaxed);
            }
        }
    } else {
        for at in 0..len {
            // SAFETY: as above; bytes are always aligned.
            unsafe {
                let byte = AtomicU8::from_ptr(from.add(at).cast_mut()).load(Relaxed);
                AtomicU8::from_ptr(to.add(at)).store(byte, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_exactly_the_bytes_asked_for() {
        let source: Vec<u8> = (0..=255).cycle().take(5000).collect();
        for (start, len) in [(0, 0), (0, 1), (3, 8), (8, 16), (1, 4096), (8, 4096)] {
            let mut out = vec![0xee; len + 2];
            // SAFETY: both lie within their vectors.
            unsafe { load(source.as_ptr().add(start), &mut out[1..=len]) };
            assert_eq!(out[1..=len], source[start..start + len]);
            assert_eq!((out[0], out[len + 1]), (0xee, 0xee));
            let mut target = vec![0xee; len + 2];
            // SAFETY: as above.
            unsafe { store(&source[start..start + len], target.as_mut_ptr().add(1)) };
            assert_eq!(target, out);
            for offset in [0, 1] {
                let mut target = vec![0xee; len + 2];
                // SAFETY: as above; in memory that is written through `target` alone.
                unsafe {
                    let from = source.clone();
                    copy_atomically(
                        from.as_ptr().add(start),
                        target.as_mut_ptr().add(offset),
                        len,
                    );
                };
                assert_eq!(target[offset..offset + len], source[start..start + len]);
            }
        }
    }
}
