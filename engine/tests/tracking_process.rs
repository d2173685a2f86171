//! The page-table tracker on the memory of another process, with a userfaultfd lent by it.
//!
//! The other process is this test program once more, running [`tracked_process`]. Its standard
//! input is a socket over which it lends its userfaultfd and takes orders of one byte and a page
//! number.

mod support;

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use pagelift_engine::dirty::{DirtyError, DirtySource, PagemapTracker};
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::sys::{Marks, PagemapScan, Userfaultfd};
use pagelift_engine::units::{PAGE_BYTES, PageCount, PageRange};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::Pid;
use support::{Mapping, harvest, memfd, runs};

const PAGES: u64 = 1100;
const ROLE: &str = "PAGELIFT_TEST_TRACKED_PROCESS";
const WRITE: u8 = b'w';
const READ: u8 = b'r';

/// Not a test of its own: what the other process does.
#[test]
fn tracked_process() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut socket = UnixStream::from(stdin);
    let file = memfd(PAGES, MemfdFlags::empty()).unwrap();
    let memory = Mapping::of_file(&file, PAGES).unwrap();
    memory.write(1, 1);
    {
        let uffd = Userfaultfd::open().unwrap();
        let fds = [uffd.as_fd(), file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let address = memory.address().to_le_bytes();
        sendmsg(
            &socket,
            &[IoSlice::new(&address)],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
        // From here on only the other side holds the userfaultfd.
    }
    let mut order = [0; 9];
    while socket.read_exact(&mut order).is_ok() {
        let page = u64::from_le_bytes(order[1..].try_into().unwrap());
        let answer = match order[0] {
            WRITE => {
                memory.write(page, 7);
                7
            }
            READ => memory.read(page),
            other => panic!("unknown order {other}"),
        };
        socket.write_all(&[answer]).unwrap();
    }
}

/// The other process; ends with this.
struct Tracked {
    child: Child,
    socket: UnixStream,
    address: u64,
    file: File,
    uffd: Option<Userfaultfd>,
}

impl Tracked {
    fn start() -> Option<Self> {
        // Whether it works at all is known before anything starts.
        support::userfaultfd()?;
        let (mut socket, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tracked_process", "--nocapture"])
            .env(ROLE, "1")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (address, mut fds) = receive(&mut socket);
        let file = File::from(fds.pop().unwrap());
        let uffd = Userfaultfd::from_fd(fds.pop().unwrap());
        uffd.enable_async_write_protect().unwrap();
        let mut other = Self {
            child,
            socket,
            address,
            file,
            uffd: Some(uffd),
        };
        // Once it takes orders it has closed its own copy of the userfaultfd.
        assert_eq!(other.order(READ, 1), 1);
        Some(other)
    }

    fn pid(&self) -> Option<Pid> {
        Some(Pid::from_child(&self.child))
    }

    fn order(&mut self, order: u8, page: u64) -> u8 {
        let mut message = [order; 9];
        message[1..].copy_from_slice(&page.to_le_bytes());
        self.socket.write_all(&message).unwrap();
        let mut answer = [0];
        self.socket.read_exact(&mut answer).unwrap();
        answer[0]
    }

    fn tracker(&mut self) -> PagemapTracker {
        let all = pagelift_engine::dirty::TrackedRange {
            address: self.address,
            range: PageRange::new(0, PAGES),
        };
        PagemapTracker::new(self.pid(), self.uffd.take().unwrap(), vec![all]).unwrap()
    }

    /// Pages that are not protected: neither the page nor its place in the page table.
    fn unprotected(&self) -> u64 {
        let mut scan = PagemapScan::open(self.pid()).unwrap();
        let end = self.address + PAGES * PAGE_BYTES as u64;
        let mut pages = 0;
        scan.written(self.address..end, Marks::Keep, |run| {
            pages += (run.end - run.start) / PAGE_BYTES as u64;
        })
        .unwrap();
        pages
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn receive(socket: &mut UnixStream) -> (u64, Vec<OwnedFd>) {
    let mut address = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut address)];
    let got = recvmsg(&*socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    assert_eq!(got.bytes, 8, "the other process has ended early");
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    (u64::from_le_bytes(address), fds)
}

#[test]
fn writes_of_another_process_are_reported_exactly_once() {
    let Some(mut other) = Tracked::start() else {
        return;
    };
    let mut tracker = other.tracker();
    tracker.arm().unwrap();
    assert_eq!(harvest(&mut tracker, PAGES), []);
    for page in [0, 1, 2, 600, PAGES - 1] {
        other.order(WRITE, page);
    }
    let expected = runs(&[(0, 3), (600, 1), (PAGES - 1, 1)]);
    assert_eq!(harvest(&mut tracker, PAGES), expected);
    assert_eq!(harvest(&mut tracker, PAGES), []);
    // Filled by this process through the file, then read and written by the other one.
    let page = vec![9; PAGE_BYTES];
    other
        .file
        .write_all_at(&page, 40 * PAGE_BYTES as u64)
        .unwrap();
    other
        .file
        .write_all_at(&page, 50 * PAGE_BYTES as u64)
        .unwrap();
    assert_eq!(other.order(READ, 40), 9);
    assert_eq!(harvest(&mut tracker, PAGES), []);
    other.order(WRITE, 40);
    other.order(WRITE, 50);
    assert_eq!(harvest(&mut tracker, PAGES), runs(&[(40, 1), (50, 1)]));
}

#[test]
fn dropping_the_tracker_leaves_the_process_running_unprotected() {
    let Some(mut other) = Tracked::start() else {
        return;
    };
    let mut tracker = other.tracker();
    tracker.arm().unwrap();
    assert_eq!(other.unprotected(), 0);
    drop(tracker);
    assert_eq!(other.unprotected(), PAGES);
    other.order(WRITE, 3);
    assert_eq!(other.order(READ, 3), 7);
}

/// What a crash of the tracking process amounts to: its descriptors are closed, nothing else.
#[test]
fn closing_the_last_userfaultfd_lifts_all_protection() {
    let Some(mut other) = Tracked::start() else {
        return;
    };
    let uffd = other.uffd.take().unwrap();
    let len_bytes = PAGES * PAGE_BYTES as u64;
    uffd.register_write_protect(other.address, len_bytes)
        .unwrap();
    uffd.write_protect(other.address, len_bytes).unwrap();
    assert_eq!(other.unprotected(), 0);
    drop(uffd);
    assert_eq!(other.unprotected(), PAGES);
    other.order(WRITE, 9);
    assert_eq!(other.order(READ, 9), 7);
}

#[test]
fn the_end_of_the_process_is_an_error_and_not_an_empty_set() {
    let Some(mut other) = Tracked::start() else {
        return;
    };
    let mut tracker = other.tracker();
    tracker.arm().unwrap();
    other.child.kill().unwrap();
    other.child.wait().unwrap();
    let mut dirty = PageBitmap::new(PageCount(PAGES));
    match tracker.harvest(&mut dirty) {
        Err(DirtyError::Kernel { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(3), "{source}");
        }
        other => panic!("{other:?}"),
    }
    tracker.disarm();
}
