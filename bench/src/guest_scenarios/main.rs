//! `guest-scenarios`: busy guests moved over a slow link by pagelift and by QEMU itself with its
//! settings, side by side, and what it cost the guest.
//!
//! Every move has a source and a target of its own, both fresh: same command line, same shared
//! memory file as RAM, same guest, in two network namespaces joined by a link with a rate. The
//! guest says what it has done, ten times a second, and proves after the move that all its memory
//! is there. A move that is not over at the limit is given up, and the guest must go on at the
//! source, whole. Methods take turns (A B C, A B C, ...), so that what else the machine does hits
//! all alike.
//!
//! Processes, namespaces and files go with the moves, on errors and signals too.
//! `docs/benchmarks/busy-guests.md` explains the columns and holds results.

mod engines;
mod methods;
mod moves;
mod options;
mod result;
mod scenarios;
mod slowdown;
mod table;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pagelift_tests::{guest_images, supervised};
use serde_json::json;

use moves::Bench;
use options::Options;
use result::{Case, Move};

fn main() -> ExitCode {
    supervised(|| run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let images = guest_images().context("the guest's images")?;
    let bench = Bench {
        options,
        images: &images,
    };
    let conditions = table::conditions(options);
    if !options.json {
        print!("{conditions}");
    }
    let mut all = Vec::new();
    for &scenario in &options.scenarios {
        let mut moves = Vec::new();
        for run in 1..=options.runs {
            for &method in &options.methods {
                let case = Case {
                    scenario,
                    method,
                    run,
                };
                // A setting that breaks must not cost the others their figures.
                let moved = bench
                    .run(case)
                    .unwrap_or_else(|why| Move::broken(case, &why));
                eprintln!("{}", moved.line());
                moves.push(moved);
            }
        }
        if !options.json {
            print!("{}", table::table(options, &scenario, &moves));
        }
        all.append(&mut moves);
    }
    if options.json {
        println!("{}", json!({ "conditions": conditions, "moves": all }));
    }
    ensure!(
        all.iter().all(|moved| moved.faults.is_empty()),
        "some guests or places are not as they must be, see above"
    );
    Ok(())
}
