//! `qemu-side-by-side`: the same QEMU guest moved by QEMU's precopy, by QEMU's multifd and by
//! pagelift, in turn, and what bounds such a move on this machine.
//!
//! Every move has a source and a target of its own, both fresh: same command line, same shared
//! memory file as RAM, same guest. The guest fills its memory, and after the move proves that it
//! is all there; a move after which it cannot is an error and not a figure. Rounds alternate
//! (A B C, A B C, ...), so that what else the machine does hits all alike; the first round of
//! a guest is not counted, because the host may give its memory to this machine only then.
//!
//! `docs/benchmarks/qemu-side-by-side.md` explains the columns.

mod account;
mod bounds;
mod loopback;
mod methods;
mod moves;
mod options;
mod table;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use pagelift_tests::{Bed, guest_images, supervised};
use serde::Serialize;

use bounds::Bounds;
use loopback::Loopback;
use moves::{Bench, Move};
use options::{Guest, Options};

/// All that was measured; `--json` prints it.
#[derive(Debug, Serialize)]
struct Results {
    bounds: Option<Bounds>,
    guests: Vec<GuestResults>,
}

/// The moves of one guest, without the first round.
#[derive(Debug, Serialize)]
struct GuestResults {
    guest: String,
    moves: Vec<Move>,
}

fn main() -> ExitCode {
    supervised(|| run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let images = guest_images().context("the guest's images")?;
    // First of all: threads started earlier would stay in the old network namespace.
    let loopback = Loopback::enter();
    let bounds = (!options.skip_bounds).then(|| {
        eprintln!("bounds of this machine");
        Bounds::measure(options.fill)
    });
    let mut guests = Vec::new();
    for guest in options.guests() {
        guests.push(measure(options, guest, &images, &loopback)?);
    }
    let results = Results { bounds, guests };
    if options.json {
        println!("{}", serde_json::to_string(&results)?);
    } else {
        print!("{}", table::render(&results, options));
    }
    Ok(())
}

/// All rounds of one guest.
fn measure(
    options: &Options,
    guest: Guest,
    images: &pagelift_tests::Images,
    loopback: &Loopback,
) -> Result<GuestResults> {
    let bench = Bench {
        workload: options.workload(guest),
        images,
        loopback,
        downtime: options.downtime,
        cold: options.cold,
        anonymous: options.qemu_anonymous,
    };
    let mut moves = Vec::new();
    for round in 0..=options.runs {
        for &method in &options.methods {
            let bed = Bed::new()?;
            let moved = bench
                .run(&bed, method)
                .with_context(|| format!("{}, {guest} guest", method.name()))?;
            bed.finish();
            let what = if round == 0 { "not counted" } else { "counted" };
            eprintln!("{guest} guest, round {round} ({what}): {}", moved.line());
            if round > 0 {
                moves.push(moved);
            }
        }
    }
    Ok(GuestResults {
        guest: guest.to_string(),
        moves,
    })
}
