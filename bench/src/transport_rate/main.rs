//! `transport-rate`: how fast one connection carries frames over loopback, plain and by TLS.
//!
//! The frames are those of raw pages in size, and nothing is done with them: this is what a transport
//! costs, and no migration. Plain and TLS take turns. A row says the rate, and the processor time of
//! both sides together for a GiB; the last column is what a processor carries, beside plain.

use std::io::{ErrorKind, Read};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use pagelift_engine::pipeline::process_cpu;
use pagelift_engine::transport::{Connection, Role};
use pagelift_engine::units::ByteCount;
use pagelift_transports::{Endpoint, Security, Token};

/// Bytes of a frame of 128 pages.
const FRAME_BYTES: usize = 512 << 10;

/// Measures what transports carry over loopback.
#[derive(Debug, Parser)]
#[command(name = "transport-rate", version)]
struct Options {
    /// Bytes that one try carries
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    bytes: ByteCount,
    /// Tries of each transport; the median counts
    #[arg(long, value_name = "N", default_value_t = 5)]
    tries: usize,
}

/// What a try took.
#[derive(Clone, Copy, Debug)]
struct Taken {
    wall_s: f64,
    cpu_s: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let kinds = [
        ("plain", Security::LocalOnly),
        ("TLS", Security::Token(Token::generate()?)),
    ];
    let mut taken = [const { Vec::new() }; 2];
    for _ in 0..options.tries.max(1) {
        for ((_, security), taken) in kinds.iter().zip(&mut taken) {
            taken.push(carry(security, options.bytes)?);
        }
    }
    let gib = options.bytes.0 as f64 / f64::from(1 << 30);
    println!("| connection | GiB/s | CPU s per GiB, both sides | per processor |");
    println!("|---|---|---|---|");
    let plain_s = median(&taken[0], |taken| taken.cpu_s);
    for ((name, _), taken) in kinds.iter().zip(&taken) {
        let (wall_s, cpu_s) = (median(taken, |t| t.wall_s), median(taken, |t| t.cpu_s));
        let share = 100.0 * plain_s / cpu_s;
        println!(
            "| {name} | {:.2} | {:.3} | {share:.0} % |",
            gib / wall_s,
            cpu_s / gib
        );
    }
    Ok(())
}

/// Carries `bytes` over a fresh connection.
fn carry(security: &Security, bytes: ByteCount) -> Result<Taken> {
    let any: Endpoint = "tcp://127.0.0.1:0".parse()?;
    let listener = any.listen_with(security)?;
    let address: Endpoint = listener.address().parse()?;
    let frames = bytes.0 / FRAME_BYTES as u64;
    thread::scope(|scope| {
        let receiving = scope.spawn(|| -> Result<()> {
            let accepted = listener.accept(std::time::Duration::from_secs(10))?;
            let mut connection = accepted.context("nobody came")?;
            let mut frame = vec![0; FRAME_BYTES];
            (0..=frames).try_for_each(|_| receive(&mut connection, &mut frame))
        });
        let mut connection = address.connect_with(security)?.connect(Role::Data(0))?;
        // The first frame warms the connection up, on both sides.
        send(&mut connection)?;
        let (began, cpu_before) = (Instant::now(), process_cpu());
        for _ in 0..frames {
            send(&mut connection)?;
        }
        receiving
            .join()
            .map_err(|_| anyhow!("the receiver panicked"))??;
        Ok(Taken {
            wall_s: began.elapsed().as_secs_f64(),
            cpu_s: process_cpu().saturating_sub(cpu_before).as_secs_f64(),
        })
    })
}

fn send(connection: &mut Connection) -> Result<()> {
    let frame = connection.tx.lend()?.freeze();
    connection.tx.send(frame.slice(..FRAME_BYTES))?;
    connection.tx.give_back(frame);
    Ok(())
}

fn receive(connection: &mut Connection, frame: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    while filled < frame.len() {
        match connection.rx.read(&mut frame[filled..]) {
            Ok(0) => return Err(anyhow!("the connection has ended")),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn median(taken: &[Taken], of: impl Fn(&Taken) -> f64) -> f64 {
    let mut values: Vec<f64> = taken.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
