//! A guest's memory with a ring of buffers that a device may write packets into.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const PAGE_BYTES: u64 = 4096;
/// Pages of the memory.
pub(crate) const PAGES: u64 = 16;
/// Buffers of the ring, a power of two.
pub(crate) const BUFFERS: u16 = 4;

/// Where in the memory what is; the ring of virtio 1.2, 2.7.
const DESCRIPTOR_PAGE: u64 = 0;
const AVAILABLE_PAGE: u64 = 1;
/// What the device has written is told here.
pub(crate) const USED_PAGE: u64 = 2;

/// The page of a buffer; none is next to another page that is written.
pub(crate) fn buffer_page(buffer: u16) -> u64 {
    4 + 2 * u64::from(buffer)
}

/// Shared memory that is mapped, with a ring whose buffers are all the device's.
pub(crate) struct GuestMemory {
    file: File,
    start: *mut u8,
}

impl GuestMemory {
    pub(crate) fn new() -> Self {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, PAGES * PAGE_BYTES).unwrap();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let bytes = (PAGES * PAGE_BYTES) as usize;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { mmap(null_mut(), bytes, protection, MapFlags::SHARED, &file, 0) };
        let start = start.unwrap().cast();
        let memory = Self { file, start };
        let mut available = vec![0, 0];
        available.extend(BUFFERS.to_le_bytes());
        for buffer in 0..BUFFERS {
            let mut descriptor = Vec::new();
            // By the guest's own addresses: those of the memory are from 0 on.
            descriptor.extend((buffer_page(buffer) * PAGE_BYTES).to_le_bytes());
            descriptor.extend((PAGE_BYTES as u32).to_le_bytes());
            // VIRTQ_DESC_F_WRITE: the device writes it. No other one follows.
            descriptor.extend([2, 0, 0, 0]);
            memory.put(
                DESCRIPTOR_PAGE * PAGE_BYTES + 16 * u64::from(buffer),
                &descriptor,
            );
            available.extend(buffer.to_le_bytes());
            // So that the page is there.
            memory.put(buffer_page(buffer) * PAGE_BYTES, &[0xee; 64]);
        }
        memory.put(AVAILABLE_PAGE * PAGE_BYTES, &available);
        memory.put(USED_PAGE * PAGE_BYTES, &[0; 64]);
        memory
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    pub(crate) fn file(&self) -> File {
        self.file.try_clone().unwrap()
    }

    pub(crate) fn start(&self) -> *const u8 {
        self.start
    }

    /// Addresses in this process of the descriptors, and of the available and used rings.
    pub(crate) fn ring(&self) -> [u64; 3] {
        let at = |page: u64| self.start.addr() as u64 + page * PAGE_BYTES;
        [at(DESCRIPTOR_PAGE), at(AVAILABLE_PAGE), at(USED_PAGE)]
    }

    /// Its length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        PAGES * PAGE_BYTES
    }

    /// The beginning of a buffer.
    pub(crate) fn packet(&self, buffer: u16) -> [u8; 64] {
        let mut packet = [0; 64];
        let at = buffer_page(buffer) * PAGE_BYTES;
        self.file.read_exact_at(&mut packet, at).unwrap();
        packet
    }

    /// Waits until the device has written so many packets.
    pub(crate) fn wait_used(&self, packets: u16) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut count = [0; 2];
        loop {
            let at = USED_PAGE * PAGE_BYTES + 2;
            self.file.read_exact_at(&mut count, at).unwrap();
            if u16::from_le_bytes(count) >= packets {
                return;
            }
            assert!(Instant::now() < deadline, "{count:?} packets have come");
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping: vhost was closed before.
        unsafe { munmap(self.start.cast(), self.bytes() as usize) }.unwrap();
    }
}
