//! Memory for the benchmarks to work on: mappings of memfds and anonymous memory.
//!
//! Everything here panics where a program would return an error: a benchmark without memory is
//! no benchmark.

#![allow(
    unsafe_code,
    reason = "the benchmarks compare ways to use mapped memory"
)]

use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// A memfd of `len` bytes, all of it a hole.
pub fn memfd(len: usize) -> File {
    let fd = memfd_create("pagelift-bench", MemfdFlags::CLOEXEC).expect("memfd_create");
    ftruncate(&fd, len as u64).expect("ftruncate");
    File::from(fd)
}

/// Takes `len` bytes of memory, rounded up to whole MiB, writes all of it and gives it back.
///
/// The kernel gives it out again first. In a virtual machine, memory that was never used, or
/// was reported as free, is not there until the host finds it, which takes several times as long
/// as all that the kernel does in here, and hits one move and not the next.
pub fn touch(len: usize) {
    let (file, data) = (memfd(len), vec![1; 1 << 20]);
    for at in (0..len).step_by(data.len()) {
        file.write_all_at(&data, at as u64).expect("pwrite");
    }
}

/// Memory mapped readable and writable for as long as this lives.
#[derive(Debug)]
pub struct Mapping {
    start: *mut c_void,
    len: usize,
}

// SAFETY: a mapping may be used and unmapped by any thread.
unsafe impl Send for Mapping {}
// SAFETY: by a shared reference it is only written, by atomic stores; slices of it need the only one.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Writes one byte.
    pub fn poke(&self, offset: usize, value: u8) {
        assert!(offset < self.len);
        // SAFETY: within the mapping, which has no other than atomic accesses by a shared reference.
        let byte = unsafe { AtomicU8::from_ptr(self.start.cast::<u8>().add(offset)) };
        byte.store(value, Ordering::Relaxed);
    }

    /// A shared mapping of the whole of `file`.
    pub fn of(file: &File, len: usize) -> Self {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { mmap(null_mut(), len, prot, MapFlags::SHARED, file, 0) };
        let start = start.expect("mmap");
        Self { start, len }
    }

    /// Anonymous memory in pages of 4 KiB.
    pub fn anonymous(len: usize) -> Self {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as above.
        let start = unsafe { mmap_anonymous(null_mut(), len, prot, MapFlags::PRIVATE) };
        let mapping = Self {
            start: start.expect("mmap"),
            len,
        };
        mapping.advise(0, len, Advice::LinuxNoHugepage);
        mapping
    }

    /// Where the mapping starts.
    pub fn address(&self) -> u64 {
        self.start.expose_provenance() as u64
    }

    /// `madvise` on a part of the mapping.
    pub fn advise(&self, offset: usize, len: usize, advice: Advice) {
        assert!(offset + len <= self.len);
        // SAFETY: the part lies within the mapping, and no slice of it is alive meanwhile.
        unsafe { madvise(self.start.byte_add(offset), len, advice) }.expect("madvise");
    }

    /// The bytes of the mapping.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is ours alone: the benchmarks are single-threaded, and none
        // writes the file while this slice is alive.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: no slice of the mapping outlives it.
        unsafe { munmap(self.start, self.len) }.expect("munmap");
    }
}

/// Bytes that do not repeat, from a small generator (xorshift64).
pub fn random_bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
