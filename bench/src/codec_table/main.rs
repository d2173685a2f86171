//! `codec-table`: what each codec setting makes of a whole move, by link rate and content.
//!
//! A source process and a target process, joined by a link with a rate (network namespaces, veth,
//! a token bucket), move memory by the engine's `send` and `receive` over TCP, as `pagelift-send`
//! and `pagelift-receive` do. The guest stands still, so that a move is one pass over its memory;
//! rounds are another benchmark's. After each move all memory is compared; one that did not
//! arrive whole is an error and not a figure. With `--guest-writes` the guest writes instead, with
//! `--burners` the machine has other work as well.
//!
//! The settings of a link and content take turns, each round beginning with another, so that what
//! else the machine does, and what the move before left in its caches, hits all alike. The median
//! run of each counts; `auto` is compared with the best of the others round by round.
//! Both ends share this machine's processors, so what the target spends on unpacking is lost to
//! the source, as it is not between two hosts.
//!
//! Prints Markdown; `docs/benchmarks/codec-settings.md` explains the columns.

mod burners;
mod content;
mod ends;
mod guest;
mod moves;
mod options;
mod table;
mod writer;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pagelift_bench::machine;
use pagelift_engine::units::ByteCount;
use pagelift_tests::{Bed, NetPair, supervised};
use serde::Serialize;

use burners::Burners;
use content::Content;
use moves::{Bench, Move, Place};
use options::{LinkRate, Options};

/// All that was measured; `--json` prints it.
#[derive(Debug, Serialize)]
struct Results {
    machine: machine::Kind,
    channels: u16,
    /// Load when it began and when it ended, the latter its own doing.
    load: [f64; 2],
    groups: Vec<Group>,
}

/// All settings over one link with one content.
#[derive(Debug, Serialize)]
struct Group {
    link: String,
    content: Content,
    memory_bytes: u64,
    cells: Vec<Cell>,
}

/// All runs of one setting.
#[derive(Debug, Serialize)]
struct Cell {
    setting: String,
    runs: Vec<Move>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(end) = &options.end {
        // One process of many, whose place is the bed of the one that measures.
        return match ends::run(end) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    supervised(|| run(&options))
}

fn run(options: &Options) -> Result<()> {
    let load_before = machine::load();
    let _burners = Burners::start(options.burners);
    let mut groups = Vec::new();
    for link in options.links() {
        groups.extend(over(link, options)?);
    }
    ensure!(!groups.is_empty(), "no link could be made");
    let results = Results {
        machine: machine::Kind::here(),
        channels: options.sending.channels(),
        load: [load_before, machine::load()],
        groups,
    };
    if options.json {
        println!("{}", serde_json::to_string(&results)?);
    } else {
        print!("{}", table::render(&results, options.runs()));
    }
    Ok(())
}

/// All contents over one link; none, with a word on stderr, if the link cannot be made.
fn over(link: LinkRate, options: &Options) -> Result<Vec<Group>> {
    let bed = Bed::new()?;
    let place = match (NetPair::new(&bed, link.bits_per_s()), link) {
        (Ok(net), _) => Place::Namespaces(net),
        (Err(why), LinkRate::Uncapped) => {
            eprintln!("uncapped: over the loopback: {why}");
            Place::Loopback
        }
        (Err(why), LinkRate::Capped(_)) => {
            eprintln!("{link} is left out: {why}; run this as root");
            return Ok(Vec::new());
        }
    };
    let groups = options
        .contents
        .iter()
        .map(|content| {
            let bytes = options.memory(link, *content);
            group(&bed, &place, *content, bytes, options)
                .map(|cells| Group {
                    link: link.to_string(),
                    content: *content,
                    memory_bytes: bytes.0,
                    cells,
                })
                .with_context(|| format!("{link}, {}", content.name()))
        })
        .collect::<Result<Vec<_>>>()?;
    drop(place);
    bed.finish();
    Ok(groups)
}

/// All settings, in turn, as often as asked for.
fn group(
    bed: &Bed,
    place: &Place,
    content: Content,
    bytes: ByteCount,
    options: &Options,
) -> Result<Vec<Cell>> {
    let memory = bed.shm_file("source", bytes.0)?;
    content.fill(memory.path(), bytes)?;
    let bench = Bench {
        bed,
        place,
        memory: memory.path(),
        bytes,
        digest: moves::digest(memory.path())?,
        sending: &options.sending,
    };
    let settings = options.settings();
    let mut cells: Vec<Cell> = settings
        .iter()
        .map(|setting| Cell {
            setting: setting.to_string(),
            runs: Vec::new(),
        })
        .collect();
    for run in 1..=options.runs() {
        let count = settings.len();
        for turn in 0..count {
            let at = (turn + run as usize - 1) % count;
            let (setting, cell) = (&settings[at], &mut cells[at]);
            let moved = bench.run(setting).with_context(|| setting.to_string())?;
            eprintln!(
                "{}, run {run}, {setting}: {:.3} s, {}",
                content.name(),
                moved.sent.total_s,
                ByteCount(moved.sent.wire_bytes)
            );
            cell.runs.push(moved);
        }
    }
    Ok(cells)
}
