//! `rdma-cost`: what it costs to bring a guest's memory over by RDMA, beside TCP.
//!
//! Two processes, one connection, batches of 128 pages. The source reads pages from memory to the buffers
//! that the connection lends, as a migration does. By TCP the target reads frames and writes their pages
//! to its memory; by RDMA it only reads that they are there. All ways take turns. A row says the rate, the
//! processor time of either process for a GiB, how often each side copies a page, and apart from all that
//! how long the source has waited for memory of the target to be registered.
//!
//! With soft-RoCE the kernel does the card's work, and copies as well; under emulation neither rates
//! nor times mean anything, but for what the two processes themselves do.

mod target;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use pagelift_engine::memory::{GuestMemory, ReadPages, SharedMemory};
use pagelift_engine::pipeline::process_cpu;
use pagelift_engine::transport::{Connection, Role};
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageIndex, PageRange};
use pagelift_transports::{Endpoint, Security};

/// Pages of a batch, as of a migration's frame.
const BATCH_PAGES: u64 = 128;

/// Measures what bringing memory over costs.
#[derive(Debug, Parser)]
#[command(name = "rdma-cost", version)]
struct Options {
    /// Address of this host on an interface with an RDMA device
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Memory that is brought over
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    bytes: ByteCount,
    /// Tries of each way; the median counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    tries: usize,
    #[command(subcommand)]
    side: Option<Side>,
}

#[derive(Debug, Subcommand)]
enum Side {
    /// The other process
    #[command(hide = true)]
    Target {
        /// Where it listens
        listen: Endpoint,
    },
}

/// What a frame says, in front of its pages if it carries any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// The connection is there.
    Begin = 0,
    /// What was registered is; from now on it is measured.
    Start = 1,
    /// These pages follow.
    Pages = 2,
    /// These pages are in memory.
    Placed = 3,
    /// That was all.
    End = 4,
}

/// Bytes of a word, the first page and their number.
const WORD_BYTES: usize = 24;

fn word(word: Word, range: PageRange) -> [u8; WORD_BYTES] {
    let mut bytes = [0; WORD_BYTES];
    let numbers = [word as u64, range.first.0, range.count.0];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// A way that pages go.
struct Way {
    name: &'static str,
    address: String,
    /// How often a page is copied by the source, and by the target.
    copies: (u32, u32),
}

/// What a try took, in seconds.
#[derive(Clone, Copy, Debug)]
struct Taken {
    wall: f64,
    registering: f64,
    source_cpu: f64,
    target_cpu: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(Side::Target { listen }) = &options.side {
        return target::run(listen, options.bytes);
    }
    let host = &options.host;
    let ways = [
        (
            "RDMA, all pinned",
            format!("rdma://{host}:0?pin-all"),
            (1, 0),
        ),
        ("RDMA, on demand", format!("rdma://{host}:0"), (1, 0)),
        // Into the socket and out of it, beside what reading and placing take.
        ("TCP", format!("tcp://{host}:0"), (2, 2)),
    ];
    let ways = ways.map(|(name, address, copies)| Way {
        name,
        address,
        copies,
    });
    let memory = target::memory(options.bytes)?;
    fill(&memory)?;
    let mut taken = [const { Vec::new() }; 3];
    for _ in 0..options.tries.max(1) {
        for (way, taken) in ways.iter().zip(&mut taken) {
            taken.push(carry(&way.address, &memory).context(way.name)?);
        }
    }
    let gib = options.bytes.0 as f64 / f64::from(1 << 30);
    println!(
        "| way | GiB/s | waited for registration | CPU s per GiB, source | target | copies, source | \
         target |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (way, taken) in ways.iter().zip(&taken) {
        println!(
            "| {} | {:.3} | {:.3} s | {:.3} | {:.3} | {} | {} |",
            way.name,
            gib / median(taken, |taken| taken.wall),
            median(taken, |taken| taken.registering),
            median(taken, |taken| taken.source_cpu) / gib,
            median(taken, |taken| taken.target_cpu) / gib,
            way.copies.0,
            way.copies.1,
        );
    }
    Ok(())
}

/// The other process, which ends with this.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Brings all memory over once.
fn carry(listen: &str, memory: &SharedMemory) -> Result<Taken> {
    let bytes = memory.layout().pages().bytes();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--bytes", &bytes.0.to_string(), "target", listen]);
    let mut other = Other(command.stdout(Stdio::piped()).spawn()?);
    let said = other.0.stdout.take().context("its output")?;
    let mut said = BufReader::new(said).lines();
    let address: Endpoint = said.next().context("it has ended")??.parse()?;
    let link = address.connect_with(&Security::Insecure)?;
    let mut connection = link.connect(Role::Data(0))?;
    send_word(&mut connection, Word::Begin, PageRange::new(0, 0))?;
    let (mut registering, began) = (Duration::ZERO, Instant::now());
    let pages = memory.layout().pages().0;
    if connection.tx.is_one_sided() {
        connection.tx.can_place(&[PageRange::new(0, 1)])?;
        registering += began.elapsed();
    }
    send_word(&mut connection, Word::Start, PageRange::new(0, 0))?;
    let (began, cpu_before, mut waited) = (Instant::now(), process_cpu(), Duration::ZERO);
    for first in (0..pages).step_by(BATCH_PAGES as usize) {
        let range = PageRange::new(first, BATCH_PAGES.min(pages - first));
        let asked = Instant::now();
        let places = connection.tx.is_one_sided() && connection.tx.can_place(&[range])?;
        waited += asked.elapsed();
        let kind = if places { Word::Placed } else { Word::Pages };
        let mut buffer = connection.tx.lend()?;
        let end = WORD_BYTES + range.len_bytes();
        buffer[..WORD_BYTES].copy_from_slice(&word(kind, range));
        memory.read(range, &mut buffer[WORD_BYTES..end])?;
        let buffer = buffer.freeze();
        let frame = match places {
            true => {
                connection
                    .tx
                    .place(range.first, buffer.slice(WORD_BYTES..end))?;
                buffer.slice(..WORD_BYTES)
            }
            false => buffer.slice(..end),
        };
        connection.tx.send(frame)?;
        connection.tx.give_back(buffer);
    }
    send_word(&mut connection, Word::End, PageRange::new(0, 0))?;
    let last = said.next().context("it has ended")??;
    let target_cpu = last.strip_prefix("CPU s: ").context("its figures")?;
    Ok(Taken {
        wall: began.elapsed().saturating_sub(waited).as_secs_f64(),
        registering: (registering + waited).as_secs_f64(),
        source_cpu: process_cpu().saturating_sub(cpu_before).as_secs_f64(),
        target_cpu: target_cpu.parse()?,
    })
}

fn send_word(connection: &mut Connection, kind: Word, range: PageRange) -> Result<()> {
    let mut buffer = connection.tx.lend()?;
    buffer[..WORD_BYTES].copy_from_slice(&word(kind, range));
    let buffer = buffer.freeze();
    connection.tx.send(buffer.slice(..WORD_BYTES))?;
    connection.tx.give_back(buffer);
    Ok(())
}

/// The content of a page of the memory that is brought over.
fn content(index: u64) -> Vec<u8> {
    (index + 1).to_le_bytes().repeat(PAGE_BYTES / 8)
}

fn fill(memory: &SharedMemory) -> Result<()> {
    for index in 0..memory.layout().pages().0 {
        memory.write(PageIndex(index), &content(index))?;
    }
    Ok(())
}

fn median(taken: &[Taken], of: impl Fn(&Taken) -> f64) -> f64 {
    let mut values: Vec<f64> = taken.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
