//! QEMU guests that move, checked by the guest's own account of itself.

use anyhow::{Context, Result};
use pagelift_tests::contract::{check_completed, number};
use pagelift_tests::{Bed, Images, Moved, Programs, Qemu, Ticks, Workload, guest_images, require};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Writes all the while, to half of what it has filled.
fn busy() -> Workload {
    Workload {
        memory_mib: 256,
        fill_bytes: 96 * MIB,
        working_bytes: Some(48 * MIB),
        rate_bytes_per_s: 16 * MIB,
        ..Workload::default()
    }
}

/// The reports of both sides, checked; the source's is returned.
fn reports(workload: &Workload, moved: &Moved) -> Result<Value> {
    let report = moved.sent.json()?;
    check_completed(&report, workload.memory_mib * MIB);
    // What the guest has filled cannot be shrunk, and must have gone over.
    assert!(number(&report, "/wire_bytes") >= workload.fill_bytes as f64);
    assert_eq!(moved.received.code(), 0, "{moved:?}");
    let received = moved.received.json()?;
    assert_eq!(received["outcome"], "completed");
    assert_eq!(received["vm_location"], "target");
    assert_eq!(received["verified"], report["verified"]);
    assert!(number(&received, "/wire_bytes") >= workload.fill_bytes as f64);
    Ok(report)
}

/// Moves a busy guest once and checks all that can be checked from outside and inside.
fn moves(images: &Images, options: &[&str]) -> Result<Value> {
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = busy();
    let machine = programs.wrap(Qemu::builder(&bed, images).workload(&workload));
    let (source, target) = machine.start_pair()?;
    source.wait_ticks(5)?;

    let moved = programs.migrate(&bed, &source, &target, options)?;
    assert_eq!(source.run_state()?, "postmigrate");
    assert_eq!(target.run_state()?, "running");
    target.wait_ticks(10)?;
    let verified = target.verify()?;
    assert_eq!((verified.pages, verified.bad), (workload.pages(), 0));

    let ticks = Ticks::check(&workload, &[source.log(), target.log()])?;
    assert!(ticks.count_on(0) >= 5 && ticks.count_on(1) >= 10);
    let writes = |n: usize| ticks.ticks[n].writes_total();
    assert!(writes(ticks.ticks.len() - 1) > writes(ticks.count_on(0)));
    let report = reports(&workload, &moved)?;
    drop((source, target));
    bed.finish();
    Ok(report)
}

#[test]
fn a_busy_guest_goes_on_where_it_was() -> Result<()> {
    let images = require!(guest_images());
    let report = moves(&images, &[])?;
    assert_eq!(report["verified"], false);
    assert_eq!(number(&report, "/blackout_parts/verify_ms"), 0.0);
    Ok(())
}

#[test]
fn a_busy_guest_moves_with_the_digests_compared() -> Result<()> {
    let images = require!(guest_images());
    let report = moves(&images, &["--verify"])?;
    assert_eq!(report["verified"], true);
    Ok(())
}

/// A number from the environment.
fn scale(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    }
}

/// What a chain of moves is made of.
struct Chain<'a> {
    bed: &'a Bed,
    images: &'a Images,
    workload: Workload,
    moves: u64,
}

/// One move as it was seen.
struct Leg {
    report: Value,
    /// From the source's STOP to the target's RESUME, by QEMU's timestamps.
    by_events_ms: f64,
}

impl Chain<'_> {
    /// Moves a guest from one fresh QEMU to the next; the one before is gone each time.
    fn run(&self) -> Result<(Ticks, Vec<Leg>)> {
        let programs = Programs::built()?;
        let machine = programs.wrap(Qemu::builder(self.bed, self.images).workload(&self.workload));
        let mut here = machine.clone().start("host0")?;
        here.wait_ticks(5)?;
        let (mut logs, mut legs) = (Vec::new(), Vec::new());
        for host in 1..=self.moves {
            let machine = machine.clone().waiting();
            let there = machine.start(&format!("host{host}"))?;
            let moved = programs.migrate(self.bed, &here, &there, &[])?;
            let left = here.last_event_s("STOP")?;
            let by_events_ms = (there.last_event_s("RESUME")? - left) * 1e3;
            let report = reports(&self.workload, &moved)?;
            there.wait_ticks(3)?;
            here.kill();
            logs.push(here.log());
            here = there;
            // The report's downtime ends when the source hears of the guest's start, so it can
            // only be longer; the slack is for a host clock that is being corrected.
            let blackout_ms = number(&report, "/blackout_ms");
            assert!(
                blackout_ms >= by_events_ms - 5.0,
                "{by_events_ms} ms by QEMU's events: {report}"
            );
            println!(
                "move {host}: downtime {blackout_ms:.1} ms by the report, {by_events_ms:.1} ms by \
                 QEMU's events, {} rounds, {:.0} ms in all, parts {}",
                report["rounds"],
                number(&report, "/total_ms"),
                report["blackout_parts"],
            );
            legs.push(Leg {
                report,
                by_events_ms,
            });
        }
        let verified = here.verify()?;
        assert_eq!((verified.pages, verified.bad), (self.workload.pages(), 0));
        logs.push(here.log());
        let ticks = Ticks::check(&self.workload, &logs)?;
        println!(
            "longest time between two ticks of 100 ms: {:?} from outside",
            ticks.longest_gap_host
        );
        Ok((ticks, legs))
    }
}

/// Prints how the downtimes of a chain are spread.
fn print_spread(legs: &[Leg]) {
    let by_report = legs.iter().map(|leg| number(&leg.report, "/blackout_ms"));
    let by_events = legs.iter().map(|leg| leg.by_events_ms);
    for (name, mut values) in [
        ("report", by_report.collect::<Vec<_>>()),
        ("events", by_events.collect()),
    ] {
        values.sort_unstable_by(f64::total_cmp);
        let (least, most) = (values[0], values[values.len() - 1]);
        println!(
            "downtime by {name}, ms: least {least:.1}, median {:.1}, most {most:.1}",
            values[values.len() / 2],
        );
    }
}

/// PAGELIFT_MOVES=20 PAGELIFT_MOVE_MEMORY_MIB=1024 for the long form.
#[test]
fn a_guest_moves_again_and_again_without_losing_a_tick() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let memory_mib = scale("PAGELIFT_MOVE_MEMORY_MIB", 512)?;
    let moves = scale("PAGELIFT_MOVES", 4)?;
    let chain = Chain {
        bed: &bed,
        images: &images,
        workload: Workload {
            memory_mib,
            fill_bytes: memory_mib * MIB / 2,
            working_bytes: Some(64 * MIB),
            rate_bytes_per_s: 16 * MIB,
            ..Workload::default()
        },
        moves,
    };
    let (ticks, legs) = chain.run()?;
    for host in 0..=moves {
        let seen = ticks.count_on(usize::try_from(host)?);
        assert!(seen >= 3, "{seen} ticks on host {host}");
    }
    print_spread(&legs);
    bed.finish();
    Ok(())
}

/// An idle guest has next to nothing left to send, so what is seen is the cost of the hand-over
/// itself. PAGELIFT_IDLE_MOVES=20 for a distribution.
#[test]
fn an_idle_guest_moves() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let chain = Chain {
        bed: &bed,
        images: &images,
        workload: Workload::default(),
        moves: scale("PAGELIFT_IDLE_MOVES", 2)?,
    };
    let (ticks, legs) = chain.run()?;
    assert!(ticks.ticks.iter().all(|tick| tick.writes_total() == 0));
    print_spread(&legs);
    bed.finish();
    Ok(())
}
