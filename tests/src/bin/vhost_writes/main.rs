//! Shows that what the kernel's vhost writes into a guest's memory is tracked, to be run where there is
//! vhost: `vhost_writes vsock net`, or one of them.
//!
//! Memory of this process stands for a guest's. vhost, in a thread of the kernel's, writes a packet
//! into it, and the used ring; the tracker that moves a QEMU guest must report just these pages, each
//! time. Prints a line for each device; panics if it is not so.

#![allow(unsafe_code, reason = "maps memory, and speaks to the kernel's vhost")]

mod ring;
mod vhost;

use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use pagelift_engine::dirty::DirtySource;
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::ram::GuestRam;
use pagelift_engine::units::PageCount;

use ring::{GuestMemory, PAGES, USED_PAGE};

/// The guest's, to vhost-vsock.
const CID: u32 = 77;

fn main() {
    for device in std::env::args().skip(1) {
        match device.as_str() {
            "vsock" => vsock(),
            "net" => net(),
            other => panic!("there is no device {other}"),
        }
    }
}

/// Somebody on the host connects: the guest is sent a request of 44 bytes.
fn vsock() {
    let memory = GuestMemory::new();
    let device = vhost::vsock(&memory, u64::from(CID));
    let mut sockets: Vec<OwnedFd> = Vec::new();
    check("vhost-vsock", &memory, |packet| {
        sockets.push(vhost::connect_vsock(CID, 5000 + packet));
    });
    let request = memory.packet(0);
    assert_eq!(request[8..16], u64::from(CID).to_le_bytes(), "for whom");
    assert_eq!(request[20..24], 5000_u32.to_le_bytes(), "to which port");
    drop((device, sockets));
}

/// Somebody on the host speaks to all: the guest is sent a frame, behind a header of 12 bytes.
fn net() {
    let memory = GuestMemory::new();
    let device = vhost::net(&memory, "tap0");
    // The interface is to send nothing by itself.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/tap0/disable_ipv6", "1");
    let mut up = Command::new("ifconfig");
    up.args(["tap0", "10.77.0.1", "netmask", "255.255.255.0", "up"]);
    assert!(up.status().unwrap().success(), "tap0");
    let socket = std::net::UdpSocket::bind("10.77.0.1:0").unwrap();
    socket.set_broadcast(true).unwrap();
    check("vhost-net", &memory, |_| {
        socket.send_to(b"x", "10.77.0.255:9").unwrap();
    });
    let frame = memory.packet(0);
    assert_eq!(frame[12..18], [0xff; 6], "for all");
    assert_eq!(frame[24..26], [0x08, 0x00], "a frame of IPv4");
    drop(device);
}

/// Has vhost write packets by `send`, and looks at what the tracker reports.
fn check(device: &str, memory: &GuestMemory, mut send: impl FnMut(u32)) {
    let mut ram = GuestRam::from_file(memory.file(), memory.start()).unwrap();
    ram.dirty().arm().unwrap();
    // What the device does as it begins: it says in the used ring whether it wants to be told of buffers.
    let mut left = 100;
    while !harvested(ram.dirty()).is_empty() {
        left -= 1;
        assert!(left > 0, "{device}: it goes on writing");
        sleep(Duration::from_millis(50));
    }
    for packet in 0..3 {
        send(packet);
        memory.wait_used(packet as u16 + 1);
        let buffer = ring::buffer_page(packet as u16);
        assert_eq!(harvested(ram.dirty()), [USED_PAGE, buffer], "{device}");
    }
    let user = rustix::process::geteuid().as_raw();
    println!("{device}: three packets, each reported to user {user}");
}

fn harvested(dirty: &mut dyn DirtySource) -> Vec<u64> {
    let mut found = PageBitmap::new(PageCount(PAGES));
    dirty.harvest(&mut found).unwrap();
    found.runs().flat_map(|run| run.indices()).collect()
}
