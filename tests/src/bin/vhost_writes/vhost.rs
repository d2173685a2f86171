//! The kernel's vhost devices, set up as QEMU does: linux/vhost.h, linux/if_tun.h, vsock(7).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{Ioctl, c_int, c_void};
use rustix::event::{EventfdFlags, eventfd};

use crate::ring::{BUFFERS, GuestMemory};

const SET_FEATURES: Ioctl = 0x4008_af00;
const SET_OWNER: Ioctl = 0xaf01;
const SET_MEM_TABLE: Ioctl = 0x4008_af03;
const SET_VRING_NUM: Ioctl = 0x4008_af10;
const SET_VRING_ADDR: Ioctl = 0x4028_af11;
const SET_VRING_BASE: Ioctl = 0x4008_af12;
const SET_VRING_KICK: Ioctl = 0x4008_af20;
const SET_VRING_CALL: Ioctl = 0x4008_af21;
const NET_SET_BACKEND: Ioctl = 0x4008_af30;
const VSOCK_SET_GUEST_CID: Ioctl = 0x4008_af60;
const VSOCK_SET_RUNNING: Ioctl = 0x4004_af61;
const TUNSETIFF: Ioctl = 0x4004_54ca;
const TUNSETVNETHDRSZ: Ioctl = 0x4004_54d8;

/// `VIRTIO_F_VERSION_1`.
const VERSION_1: u64 = 1 << 32;
/// Of virtio-net's header, with that feature.
const HEADER_BYTES: c_int = 12;

/// A device that has the memory, until it is dropped.
pub(crate) struct Device {
    _vhost: File,
    _others: Vec<OwnedFd>,
}

/// `struct vhost_memory` with one region.
#[repr(C)]
struct MemoryTable {
    regions: u32,
    padding: u32,
    guest_address: u64,
    bytes: u64,
    address: u64,
    flags: u64,
}

#[repr(C)]
struct RingAddress {
    index: u32,
    flags: u32,
    descriptors: u64,
    used: u64,
    available: u64,
    log: u64,
}

/// vhost-vsock, for a guest of this context.
pub(crate) fn vsock(memory: &GuestMemory, cid: u64) -> Device {
    let (vhost, mut others) = open("/dev/vhost-vsock", memory);
    ask(&vhost, VSOCK_SET_GUEST_CID, &cid);
    // What the guest sends: nothing, in a memory of its own.
    others.extend(ring(&vhost, 0, memory));
    let nothing = Box::leak(Box::new([0_u64; 1024]));
    others.extend(ring_at(&vhost, 1, aligned(nothing)));
    ask(&vhost, VSOCK_SET_RUNNING, &1_i32);
    Device {
        _vhost: vhost,
        _others: others,
    }
}

/// vhost-net behind a new tap interface.
pub(crate) fn net(memory: &GuestMemory, interface: &str) -> Device {
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    // `struct ifreq`: the name, and the flags IFF_TAP, IFF_NO_PI and IFF_VNET_HDR.
    let mut request = [0_u8; 40];
    request[..interface.len()].copy_from_slice(interface.as_bytes());
    request[16..18].copy_from_slice(&0x5002_u16.to_le_bytes());
    ask(&tap, TUNSETIFF, &request);
    ask(&tap, TUNSETVNETHDRSZ, &HEADER_BYTES);
    let (vhost, mut others) = open("/dev/vhost-net", memory);
    others.extend(ring(&vhost, 0, memory));
    ask(&vhost, NET_SET_BACKEND, &[0, tap.as_raw_fd()]);
    others.push(tap.into());
    Device {
        _vhost: vhost,
        _others: others,
    }
}

/// Begins to connect to a port of the guest's.
pub(crate) fn connect_vsock(cid: u32, port: u32) -> OwnedFd {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0) };
    assert!(fd >= 0, "vsock: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just returned this descriptor; nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeros is a valid value of this structure of numbers.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    (address.svm_cid, address.svm_port) = (cid, port);
    let bytes = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is alive, and as long as is said.
    let connected = unsafe { libc::connect(fd, (&raw const address).cast(), bytes) };
    let error = io::Error::last_os_error();
    assert!(
        connected < 0 && error.raw_os_error() == Some(libc::EINPROGRESS),
        "{error}"
    );
    socket
}

/// A vhost device of this process's that has the memory.
fn open(path: &str, memory: &GuestMemory) -> (File, Vec<OwnedFd>) {
    let vhost = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    call(&vhost, SET_OWNER, std::ptr::null());
    ask(&vhost, SET_FEATURES, &VERSION_1);
    let table = MemoryTable {
        regions: 1,
        padding: 0,
        guest_address: 0,
        bytes: memory.bytes(),
        address: memory.start().addr() as u64,
        flags: 0,
    };
    ask(&vhost, SET_MEM_TABLE, &table);
    (vhost, Vec::new())
}

/// The ring of the memory as that of number `index`.
fn ring(vhost: &File, index: u32, memory: &GuestMemory) -> [OwnedFd; 2] {
    ring_at(vhost, index, memory.ring())
}

/// A ring at these addresses: its descriptors, what is available and what is used.
fn ring_at(vhost: &File, index: u32, [descriptors, available, used]: [u64; 3]) -> [OwnedFd; 2] {
    ask(vhost, SET_VRING_NUM, &[index, u32::from(BUFFERS)]);
    ask(vhost, SET_VRING_BASE, &[index, 0]);
    let address = RingAddress {
        index,
        flags: 0,
        descriptors,
        used,
        available,
        log: 0,
    };
    ask(vhost, SET_VRING_ADDR, &address);
    [SET_VRING_KICK, SET_VRING_CALL].map(|which| {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        ask(vhost, which, &[index as i32, event.as_raw_fd()]);
        event
    })
}

/// Addresses for the three parts of a ring in memory that is never given back.
fn aligned(memory: &'static [u64; 1024]) -> [u64; 3] {
    let start = (memory.as_ptr().addr() as u64).next_multiple_of(64);
    [start, start + 1024, start + 2048]
}

/// An ioctl with an argument that the kernel reads.
fn ask<T>(file: &File, request: Ioctl, argument: &T) {
    call(file, request, std::ptr::from_ref(argument).cast());
}

fn call(file: &File, request: Ioctl, argument: *const c_void) {
    // SAFETY: the argument is that of the request, whose size the request says; the kernel reads it.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request, argument) };
    assert!(
        done >= 0,
        "ioctl {request:#x}: {}",
        io::Error::last_os_error()
    );
}
