//! What a move of so many bytes costs on this machine at the least: each step alone, with the
//! sizes and calls that pagelift uses, and the sum of the steps that no move can do without.
//!
//! Each step is done three times over all bytes and the median counts. CPU is that of this
//! process, in which all threads of a step run, so the kernel's work for them is in it.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Instant;

use pagelift_bench::figures::middle;
use pagelift_bench::machine::own_cpu_seconds;
use pagelift_bench::memory::{Mapping, memfd, random_bytes};
use pagelift_engine::codec::is_zero;
use pagelift_engine::units::ByteCount;
use rustix::mm::Advice;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use serde::Serialize;

/// Bytes of one call: those of the largest frame pagelift sends.
const PIECE: usize = 512 << 10;

/// Socket buffers that pagelift asks for on a path as short as the loopback.
const SMALL_BUFFER: usize = 128 << 10;

const PAGE: usize = 4096;

const REPEATS: usize = 3;

/// Threads that work at once in the parallel steps, and cores that the bound counts on.
const THREADS: usize = 2;

/// What a step costs for all bytes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    /// What is done.
    pub(crate) name: &'static str,
    /// Time it takes.
    pub(crate) wall_s: f64,
    /// CPU time of all threads.
    pub(crate) cpu_s: f64,
}

/// All steps, and what follows from them.
#[derive(Debug, Serialize)]
pub(crate) struct Bounds {
    /// Bytes that each step handles.
    pub(crate) bytes: u64,
    /// The steps.
    pub(crate) steps: Vec<Step>,
    /// CPU time of the steps that no move over TCP can do without: reading, the connection,
    /// placing.
    pub(crate) least_cpu_s: f64,
    /// The same spread evenly over two cores that do nothing else, or placing, which has to be
    /// done one page after the other, if that is longer.
    pub(crate) least_wall_s: f64,
}

impl Bounds {
    /// Measures; takes half a minute for 1.5 GiB on a slow machine, and twice the memory.
    pub(crate) fn measure(bytes: ByteCount) -> Self {
        // Whole pieces for every thread.
        let unit = THREADS * PIECE;
        let len = (bytes.0 as usize / unit).max(1) * unit;
        let data = random_bytes(PIECE);
        let present = memfd(len);
        write_all(&present, &data, 0..len);

        let read = step("pread of present pages", || read_all(&present, 0..len));
        let read_2 = step("pread of present pages, 2 threads", || {
            in_parts(len, |part| read_all(&present, part));
        });
        let tcp = step("loopback TCP, 1 stream", || stream(&data, len, None));
        let tcp_2 = step("loopback TCP, 2 streams", || {
            in_parts(len, |part| stream(&data, part.len(), None));
        });
        let small_2 = step("loopback TCP, 2 streams, small buffers", || {
            in_parts(len, |part| stream(&data, part.len(), Some(SMALL_BUFFER)));
        });
        let place = on_fresh("first touch by pwrite", len, |file| {
            write_all(file, &data, 0..len);
        });
        let place_2 = on_fresh("first touch by pwrite, 2 threads", len, |file| {
            in_parts(len, |part| write_all(file, &data, part));
        });
        let populate = on_fresh("first touch by populate", len, |file| {
            Mapping::of(file, len).advise(0, len, Advice::LinuxPopulateWrite);
        });
        let populate_2 = on_fresh("first touch by populate, 2 threads", len, |file| {
            in_parts(len, |part| {
                Mapping::of(file, len).advise(part.start, part.len(), Advice::LinuxPopulateWrite);
            });
        });
        let mut map = Mapping::of(&present, len);
        map.advise(0, len, Advice::LinuxPopulateWrite);
        let copy = step("memcpy to present memory", || {
            for piece in map.bytes().chunks_exact_mut(PIECE) {
                piece.copy_from_slice(black_box(&data));
            }
        });
        let check = step("zero test and CRC-32C, in the cache", || {
            for _ in 0..len / PIECE {
                look(black_box(&data));
            }
        });
        let place_cpu_s = place.cpu_s;
        let least_cpu_s = read.cpu_s + tcp.cpu_s.min(small_2.cpu_s) + place_cpu_s;
        Self {
            bytes: len as u64,
            steps: vec![
                read, read_2, tcp, tcp_2, small_2, place, place_2, populate, populate_2, copy,
                check,
            ],
            least_cpu_s,
            // One file's pages are placed one at a time, whoever places them.
            least_wall_s: place_cpu_s.max(least_cpu_s / THREADS as f64),
        }
    }
}

/// The median of some repeats of `work`.
fn step(name: &'static str, mut work: impl FnMut()) -> Step {
    median(name, || timed(name, &mut work))
}

/// The same on files that were never touched; giving their memory back is not counted.
fn on_fresh(name: &'static str, len: usize, work: impl Fn(&File)) -> Step {
    median(name, || {
        let file = memfd(len);
        timed(name, || work(&file))
    })
}

fn timed(name: &'static str, work: impl FnOnce()) -> Step {
    let (cpu_s, start) = (own_cpu_seconds(), Instant::now());
    work();
    Step {
        name,
        wall_s: start.elapsed().as_secs_f64(),
        cpu_s: own_cpu_seconds() - cpu_s,
    }
}

fn median(name: &'static str, once: impl FnMut() -> Step) -> Step {
    let steps: Vec<Step> = std::iter::repeat_with(once).take(REPEATS).collect();
    Step {
        name,
        wall_s: middle(steps.iter().map(|step| step.wall_s)),
        cpu_s: middle(steps.iter().map(|step| step.cpu_s)),
    }
}

fn in_parts(len: usize, work: impl Fn(std::ops::Range<usize>) + Sync) {
    let part = len / THREADS;
    thread::scope(|scope| {
        for first in (0..len).step_by(part) {
            let work = &work;
            scope.spawn(move || work(first..first + part));
        }
    });
}

fn read_all(file: &File, range: std::ops::Range<usize>) {
    let mut piece = vec![0; PIECE];
    for at in range.step_by(PIECE) {
        file.read_exact_at(&mut piece, at as u64).expect("pread");
        black_box(&piece);
    }
}

fn write_all(file: &File, data: &[u8], range: std::ops::Range<usize>) {
    for at in range.step_by(PIECE) {
        file.write_all_at(data, at as u64).expect("pwrite");
    }
}

/// Sends `len` bytes over a connection of its own, with the kernel's buffers or with these.
fn stream(data: &[u8], len: usize, buffer: Option<usize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = listener.local_addr().expect("its address");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut from = listener.accept().expect("accept").0;
            if let Some(bytes) = buffer {
                set_socket_recv_buffer_size(&from, bytes).expect("SO_RCVBUF");
            }
            let mut piece = vec![0; PIECE];
            for _ in 0..len / PIECE {
                from.read_exact(&mut piece).expect("read");
            }
        });
        let mut to = TcpStream::connect(address).expect("connect");
        to.set_nodelay(true).expect("TCP_NODELAY");
        if let Some(bytes) = buffer {
            set_socket_send_buffer_size(&to, bytes).expect("SO_SNDBUF");
        }
        for _ in 0..len / PIECE {
            to.write_all(data).expect("write");
        }
    });
}

/// What pagelift does to each byte besides moving it: on the source both, on the target the
/// checksum.
fn look(data: &[u8]) {
    for page in data.chunks_exact(PAGE) {
        black_box(is_zero(page));
    }
    black_box(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data));
}
