//! A guest to be moved inside the lab: memory, and a thread that writes it.
//!
//! ```text
//! lab-guest both ADDRESS MIB        from this process to itself; compares the memory byte by byte
//! lab-guest target ADDRESS MIB      waits for a guest
//! lab-guest source ADDRESS MIB      moves one; exit code 4 if it stayed, and runs on
//! lab-guest late ADDRESS            writes to the target's memory behind its fence
//! lab-guest wrong-key ADDRESS       writes with a key that is not the target's
//! ```
//!
//! With LAB_TOKEN in the environment the two sides know each other by that; under emulation the
//! handshakes take seconds.

#![allow(unsafe_code, reason = "the guest writes raw memory")]

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail, ensure};
use pagelift_engine::memory::{FileMemory, GuestMemory, MapPages, ReadPages, SharedMemory};
use pagelift_engine::migration::Report;
use pagelift_engine::transport::{Connection, Role};
use pagelift_engine::units::{PAGE_BYTES, PageIndex, PageRange};
use pagelift_engine::{
    GuestRam, Incoming, Job, Outgoing, Received, SourceGuest, TargetGuest, guest,
};
use pagelift_transports::{Endpoint, Security, Token};

/// Exit code for a guest that stayed.
const STAYED: u8 = 4;

/// Memory, and one vCPU.
#[derive(Clone)]
struct Vm {
    memory: Arc<SharedMemory>,
    cpu: Arc<Cpu>,
}

#[derive(Default)]
struct Cpu {
    /// Held while it does a step.
    runs: Mutex<bool>,
    steps: AtomicU64,
    ended: AtomicBool,
}

impl Vm {
    /// A guest that stands still, with `mib` MiB.
    fn new(mib: u64) -> Result<Self> {
        let file = tempfile::tempfile_in("/dev/shm")?;
        file.set_len(mib << 20)?;
        let memory = Arc::new(SharedMemory::map(FileMemory::whole(file)?)?);
        let vm = Self {
            memory,
            cpu: Arc::default(),
        };
        let vcpu = vm.clone();
        thread::spawn(move || {
            while !vcpu.cpu.ended.load(Ordering::Relaxed) {
                vcpu.step();
            }
        });
        Ok(vm)
    }

    /// Three of four pages get a content that nothing compresses; the last quarter is never written.
    fn fill(&self) -> Result<()> {
        let pages = self.memory.layout().pages().0;
        let mut page = [0; PAGE_BYTES];
        for index in 0..pages - pages / 4 {
            let mut word = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            for bytes in page.chunks_exact_mut(8) {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            self.memory.write(PageIndex(index), &page)?;
        }
        Ok(())
    }

    /// Writes a word to a page here and a page there, and now and then makes one zero.
    fn step(&self) {
        let runs = self.cpu.runs.lock().expect("nobody panics");
        if !*runs {
            drop(runs);
            thread::sleep(Duration::from_millis(1));
            return;
        }
        let step = self.cpu.steps.fetch_add(1, Ordering::Relaxed);
        let pages = self.memory.layout().pages().0;
        let page = (step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % (pages - pages / 4);
        let start = self.memory.region_start(0);
        // SAFETY: the page lies within the mapping, to which Rust holds no reference.
        unsafe {
            let start = start.add(page as usize * PAGE_BYTES);
            match step % 64 {
                0 => start.write_bytes(0, PAGE_BYTES),
                _ => start
                    .add((step % 512 * 8) as usize)
                    .cast::<u64>()
                    .write(step),
            }
        }
        drop(runs);
        if step.is_multiple_of(16) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn steps(&self) -> u64 {
        self.cpu.steps.load(Ordering::Relaxed)
    }
}

impl SourceGuest for Vm {
    fn pause(&mut self) -> guest::Result<()> {
        *self.cpu.runs.lock().expect("nobody panics") = false;
        Ok(())
    }

    fn save_devices(&mut self, out: &mut dyn Write) -> guest::Result<()> {
        Ok(out.write_all(&self.steps().to_le_bytes())?)
    }

    fn relinquish(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn resume(&mut self) -> guest::Result<()> {
        *self.cpu.runs.lock().expect("nobody panics") = true;
        Ok(())
    }
}

/// A guest that arrives; it stands still until it is looked at.
struct Arriving(Vm);

impl TargetGuest for Arriving {
    fn load_devices(&mut self, state: &mut dyn Read) -> guest::Result<()> {
        let mut steps = [0; 8];
        state.read_exact(&mut steps)?;
        let steps = u64::from_le_bytes(steps);
        self.0.cpu.steps.store(steps, Ordering::Relaxed);
        Ok(())
    }

    fn run(&mut self) -> guest::Result<()> {
        Ok(())
    }
}

fn security() -> Result<Security> {
    Ok(match env::var("LAB_TOKEN") {
        Ok(token) => Security::Token(token.parse::<Token>()?),
        // Nobody else is on the wire of the lab.
        Err(_) => Security::Insecure,
    })
}

fn receive(address: &str, mib: u64) -> Result<(Vm, Job<Arriving, Received>, String)> {
    let vm = Vm::new(mib)?;
    let listener = address.parse::<Endpoint>()?.listen_with(&security()?)?;
    let incoming = Incoming::new(listener, vm.memory.clone(), Arriving(vm.clone()));
    let address = incoming.address();
    Ok((vm, incoming.start()?, address))
}

/// Moves a guest that runs; what its pages went as.
fn send(vm: &Vm, address: &str) -> Result<Report> {
    let link = address.parse::<Endpoint>()?.connect_with(&security()?)?;
    let ram = GuestRam::shared(vm.memory.clone())?;
    let outgoing = Outgoing::new(link, ram, vm.clone())
        .downtime(Duration::from_secs(2))
        .channels(2)
        .verify(true);
    Ok(outgoing.start()?.wait().result?)
}

fn both(address: &str, mib: u64) -> Result<()> {
    let pinned = address.ends_with("?pin-all");
    let (there, job, mut to) = receive(address, mib)?;
    if pinned {
        to.push_str("?pin-all");
    }
    let mut here = Vm::new(mib)?;
    here.fill()?;
    here.resume()?;
    let report = send(&here, &to)?;
    job.wait().result.context("the target")?;
    ensure!(here.steps() > 0, "the guest has not run");
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for first in (0..mib * 256).step_by(256) {
        let range = PageRange::new(first, 256);
        here.memory.read(range, &mut one)?;
        there.memory.read(range, &mut other)?;
        ensure!(one == other, "pages {first}.. differ");
    }
    let pages = report.pages;
    println!(
        "moved {mib} MiB, rounds {}, pages {pages:?}, steps {}",
        report.rounds,
        here.steps()
    );
    if to.starts_with("rdma") {
        ensure!(
            pages.placed > mib * 256 / 2,
            "most pages are placed: {pages:?}"
        );
    }
    for vm in [here, there] {
        vm.cpu.ended.store(true, Ordering::Relaxed);
    }
    Ok(())
}

fn target(address: &str, mib: u64) -> Result<()> {
    let (_, job, address) = receive(address, mib)?;
    println!("listening at {address}");
    job.wait().result?;
    println!("arrived");
    Ok(())
}

fn source(address: &str, mib: u64) -> Result<ExitCode> {
    let mut vm = Vm::new(mib)?;
    vm.fill()?;
    vm.resume()?;
    let began = Instant::now();
    let Err(error) = send(&vm, address) else {
        println!("left");
        return Ok(ExitCode::SUCCESS);
    };
    println!("stayed after {} ms: {error:#}", began.elapsed().as_millis());
    let before = vm.steps();
    let until = Instant::now() + Duration::from_secs(30);
    while vm.steps() == before {
        ensure!(Instant::now() < until, "the guest does not run on");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(ExitCode::from(STAYED))
}

/// Both ends of a data connection, and the memory of the target.
fn ends(
    address: &str,
    through: impl FnOnce(String) -> Result<String>,
) -> Result<(Connection, Connection, Arc<SharedMemory>)> {
    let vm = Vm::new(4)?;
    let listener = address
        .parse::<Endpoint>()?
        .listen_with(&Security::Insecure)?;
    let to = through(listener.address())?;
    let link = to.parse::<Endpoint>()?.connect_with(&Security::Insecure)?;
    let near = thread::spawn(move || link.connect(Role::Data(0)));
    let mut far = loop {
        if let Some(far) = listener.accept(Duration::from_secs(1))? {
            break far;
        }
    };
    // It is made by whoever reads.
    while !near.is_finished() {
        match far.rx.read(&mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => bail!("nothing was sent: {other:?}"),
        }
    }
    let near = near.join().expect("it has not panicked")?;
    Ok((near, far, vm.memory))
}

/// Places `byte` in page 1, and sends a message behind it; what came of it.
fn place(near: &mut Connection, byte: u8) -> std::io::Result<()> {
    let range = PageRange::new(1, 1);
    ensure_placeable(near.tx.can_place(&[range])?)?;
    let mut buffer = near.tx.lend()?;
    buffer[..PAGE_BYTES].fill(byte);
    let buffer = buffer.freeze();
    near.tx.place(range.first, buffer.slice(..PAGE_BYTES))?;
    near.tx.send(buffer.slice(..1))?;
    near.tx.give_back(buffer);
    Ok(())
}

fn ensure_placeable(can: bool) -> std::io::Result<()> {
    match can {
        true => Ok(()),
        false => Err(std::io::Error::other("the page cannot be placed")),
    }
}

fn first_byte(memory: &SharedMemory) -> Result<u8> {
    let mut page = [0; PAGE_BYTES];
    memory.read(PageRange::new(1, 1), &mut page)?;
    ensure!(page.iter().all(|byte| *byte == page[0]), "a part of a page");
    Ok(page[0])
}

/// Sends until the source is told what became of its write.
fn until_refused(near: &mut Connection) -> Result<String> {
    for _ in 0..1000 {
        if let Err(error) = near
            .tx
            .lend()
            .map(|buffer| near.tx.give_back(buffer.freeze()))
        {
            return Ok(error.to_string());
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("nobody objects")
}

fn read_message(far: &mut Connection) -> Result<()> {
    let mut byte = [0];
    loop {
        match far.rx.read(&mut byte) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => {
                ensure!(other? == 1, "the connection has ended");
                return Ok(());
            }
        }
    }
}

fn late(address: &str) -> Result<()> {
    let (mut near, mut far, memory) = ends(address, Ok)?;
    let exposable = far.one_sided.take().context("a connection for data")?;
    let mut fence = exposable.expose(memory.clone())?;
    place(&mut near, 7)?;
    read_message(&mut far)?;
    ensure!(
        first_byte(&memory)? == 7,
        "a page is there when its frame is"
    );
    fence.close()?;
    let refused = match place(&mut near, 8) {
        Ok(()) => until_refused(&mut near)?,
        Err(error) => error.to_string(),
    };
    println!("a late write: {refused}");
    ensure!(refused.contains("remote access error"), "{refused}");
    ensure!(first_byte(&memory)? == 7, "a late write has landed");
    Ok(())
}

/// Forwards connections to `to`, with one bit of each key of a window flipped.
fn forging(to: String) -> Result<String> {
    let there = to.strip_prefix("rdma://").context("rdma")?.to_owned();
    let host = there.rsplit_once(':').context("a port")?.0.to_owned();
    let listener = std::net::TcpListener::bind((host.as_str(), 0))?;
    let here = listener.local_addr()?;
    thread::spawn(move || -> Result<()> {
        let (near, _) = listener.accept()?;
        let far = std::net::TcpStream::connect(there)?;
        let (mut from, mut into) = (near.try_clone()?, far.try_clone()?);
        thread::spawn(move || std::io::copy(&mut from, &mut into));
        let (mut from, mut into) = (far, near);
        let mut record = Vec::new();
        loop {
            let mut byte = [0];
            if from.read(&mut byte)? == 0 {
                return Ok(());
            }
            record.push(byte[0]);
            let whole = record.len() >= 3
                && record.len() == 3 + usize::from(u16::from_le_bytes([record[1], record[2]]));
            if whole {
                const WINDOW: u8 = 5;
                if record[0] == WINDOW {
                    // The key is the last number of the record; its upper bytes are an index.
                    let at = record.len() - 3;
                    record[at] ^= 0x40;
                }
                into.write_all(&record)?;
                record.clear();
            }
        }
    });
    Ok(format!("rdma://{here}"))
}

fn wrong_key(address: &str) -> Result<()> {
    let (mut near, mut far, memory) = ends(address, forging)?;
    let exposable = far.one_sided.take().context("a connection for data")?;
    let _fence = exposable.expose(memory.clone())?;
    let refused = match place(&mut near, 9) {
        Ok(()) => until_refused(&mut near)?,
        Err(error) => error.to_string(),
    };
    println!("a wrong key: {refused}");
    ensure!(refused.contains("remote access error"), "{refused}");
    ensure!(
        first_byte(&memory)? == 0,
        "a write by a wrong key has landed"
    );
    Ok(())
}

fn run() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["both", address, mib] => both(address, mib.parse()?)?,
        ["target", address, mib] => target(address, mib.parse()?)?,
        ["source", address, mib] => return source(address, mib.parse()?),
        ["late", address] => late(address)?,
        ["wrong-key", address] => wrong_key(address)?,
        _ => bail!("lab-guest both|target|source|late|wrong-key ADDRESS [MIB]"),
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        println!("lab-guest: {error:#}");
        ExitCode::FAILURE
    })
}
