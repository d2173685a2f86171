//! The failure matrix: what a libvirtd 11.3 was seen to do, and what these machines do.
//!
//! docs/v3.md shows the table that is made here.

use super::simulator::{Guest, World};
use super::*;

pub(super) const CLIENT: Client = Client(1);
pub(super) const MANAGED: Mode = Mode::Managed(CLIENT);

/// A world in which the phases up to a point went well.
pub(super) fn world(mode: Mode, phases: usize) -> World {
    let mut world = World::new();
    let steps: [&dyn Fn(&mut World); 5] = [
        &|w| w.on_source(|source| source.begin(mode, false)).unwrap(),
        &|w| w.prepare(CLIENT).unwrap(),
        &|w| w.perform(mode).unwrap(),
        &|w| w.qemu_ends(true, true),
        &|w| {
            w.finish(false).unwrap();
            w.settle();
        },
    ];
    for step in &steps[..phases] {
        step(&mut world);
    }
    world
}

pub(super) const BEGUN: usize = 1;
pub(super) const PREPARED: usize = 2;
pub(super) const PERFORMING: usize = 3;
pub(super) const PERFORMED: usize = 4;
pub(super) const FINISHED: usize = 5;

fn client_lost(world: &mut World) {
    world.source_does(|source| source.client_lost(CLIENT));
    world.target_does(|target| target.client_lost(CLIENT));
}

struct Row {
    fault: &'static str,
    libvirt: &'static str,
    ours: fn() -> World,
    ends: (Guest, Guest),
    why: &'static str,
}

pub(super) const STAYS: (Guest, Guest) = (Guest::Runs, Guest::Absent);
pub(super) const MOVES: (Guest, Guest) = (Guest::Absent, Guest::Runs);
const HELD: (Guest, Guest) = (Guest::Paused, Guest::Runs);

const MATRIX: &[Row] = &[
    Row {
        fault: "client lost after Begin",
        libvirt: "source runs",
        ours: || {
            let mut w = world(MANAGED, BEGUN);
            client_lost(&mut w);
            w
        },
        ends: STAYS,
        why: "",
    },
    Row {
        fault: "Prepare fails",
        libvirt: "source runs",
        ours: || {
            let mut w = world(MANAGED, BEGUN);
            w.confirm(true).unwrap();
            w
        },
        ends: STAYS,
        why: "",
    },
    Row {
        fault: "client lost after Prepare",
        libvirt: "source runs, target dropped",
        ours: || {
            let mut w = world(MANAGED, PREPARED);
            client_lost(&mut w);
            w
        },
        ends: STAYS,
        why: "",
    },
    Row {
        fault: "target's daemon killed after Prepare, managed",
        libvirt: "memory is sent all the same, then the source runs",
        ours: || {
            let mut w = world(MANAGED, PREPARED);
            w.target_restarts();
            w.settle();
            w.perform(MANAGED).unwrap();
            w.qemu_ends(false, false);
            w
        },
        ends: STAYS,
        why: "",
    },
    Row {
        fault: "Perform fails, or is aborted",
        libvirt: "source runs, target dropped",
        ours: || {
            let mut w = world(MANAGED, PERFORMING);
            w.source_does(|source| source.abort().unwrap());
            w.settle();
            w.finish(true).unwrap();
            w
        },
        ends: STAYS,
        why: "",
    },
    Row {
        fault: "client lost in Perform, managed",
        libvirt: "source runs, target dropped",
        ours: || {
            let mut w = world(MANAGED, PERFORMING);
            client_lost(&mut w);
            w
        },
        ends: STAYS,
        why: "",
    },
    Row {
        fault: "client lost in Perform, peer-to-peer",
        libvirt: "the guest moves",
        ours: || {
            let mut w = world(Mode::PeerToPeer, PERFORMING);
            w.source_does(|source| source.client_lost(CLIENT));
            w.qemu_ends(true, true);
            w.finish(false).unwrap();
            w.settle();
            w.confirm(false).unwrap();
            w
        },
        ends: MOVES,
        why: "",
    },
    Row {
        fault: "source's daemon killed in Perform",
        libvirt: "source runs after its restart",
        ours: || {
            let mut w = world(MANAGED, PERFORMING);
            w.source_restarts();
            w.target_does(|target| target.client_lost(CLIENT));
            w
        },
        ends: STAYS,
        why: "",
    },
    Row {
        fault: "target's start or definition fails in Finish",
        libvirt: "source runs, target dropped",
        ours: || {
            let mut w = world(MANAGED, PERFORMED);
            w.starts = false;
            w.finish(false).unwrap();
            w.settle();
            w.confirm(true).unwrap();
            w
        },
        ends: STAYS,
        why: "",
    },
    Row {
        fault: "client lost between Perform and Finish",
        libvirt: "source paused for ever, target dropped: the guest runs nowhere",
        ours: || {
            let mut w = world(MANAGED, PERFORMED);
            client_lost(&mut w);
            w
        },
        ends: STAYS,
        why: "the source asks the target, which has dropped the guest",
    },
    Row {
        fault: "source's daemon killed between Perform and Finish",
        libvirt: "source paused for ever, target dropped: the guest runs nowhere",
        ours: || {
            let mut w = world(MANAGED, PERFORMED);
            w.source_restarts();
            w.finish(true).unwrap();
            w
        },
        ends: STAYS,
        why: "the restarted source asks the target",
    },
    Row {
        fault: "client lost between Finish and Confirm",
        libvirt: "source paused for ever, its QEMU kept; target runs",
        ours: || {
            let mut w = world(MANAGED, FINISHED);
            client_lost(&mut w);
            w
        },
        ends: MOVES,
        why: "the source asks the target, and confirms by itself",
    },
    Row {
        fault: "source's daemon killed between Finish and Confirm",
        libvirt: "source paused for ever, its QEMU kept; target runs",
        ours: || {
            let mut w = world(Mode::PeerToPeer, FINISHED);
            w.source_restarts();
            w
        },
        ends: MOVES,
        why: "the restarted source asks the target",
    },
    Row {
        fault: "Finish's answer lost, Confirm cancelled",
        libvirt: "the guest runs on BOTH sides; with a lock on its disk the source is paused",
        ours: || {
            let mut w = world(MANAGED, FINISHED);
            w.confirm(true).unwrap();
            w
        },
        ends: MOVES,
        why: "the target's word counts, not the client's",
    },
    Row {
        fault: "the same, and the target cannot be reached",
        libvirt: "the guest runs on BOTH sides",
        ours: || {
            let mut w = world(MANAGED, FINISHED);
            w.linked = false;
            w.confirm(true).unwrap();
            w
        },
        ends: HELD,
        why: "the source is held, says so, and asks again",
    },
    Row {
        fault: "Confirm without Perform",
        libvirt: "source KILLED, nothing on the target",
        ours: || {
            let mut w = world(MANAGED, PREPARED);
            assert_eq!(w.confirm(false), Err(Refusal::NotPerformed));
            w.confirm(true).unwrap();
            w.finish(true).unwrap();
            w
        },
        ends: STAYS,
        why: "refused with code 55",
    },
    Row {
        fault: "Perform again after Perform",
        libvirt: "source resumes; with Finish the guest runs on BOTH sides",
        ours: || {
            let mut w = world(MANAGED, PERFORMED);
            assert_eq!(w.perform(MANAGED), Err(Refusal::AlreadyPerformed));
            w.finish(false).unwrap();
            w.settle();
            w.confirm(false).unwrap();
            w
        },
        ends: MOVES,
        why: "refused with code 55, and nothing is touched",
    },
    Row {
        fault: "Finish before Perform",
        libvirt: "no answer, and the guest stays on the target until it is destroyed",
        ours: || {
            let mut w = world(MANAGED, PREPARED);
            assert_eq!(w.finish(false), Err(Refusal::NotArrived));
            client_lost(&mut w);
            w
        },
        ends: STAYS,
        why: "refused with code 55 at once",
    },
    Row {
        fault: "Perform fails when all had arrived, Finish not cancelled",
        libvirt: "the guest runs on BOTH sides",
        ours: || {
            let mut w = world(MANAGED, PERFORMING);
            w.qemu_ends(false, true);
            assert_eq!(w.finish(false), Err(Refusal::NotArrived));
            w.finish(true).unwrap();
            w
        },
        ends: STAYS,
        why: "Finish needs the word of Perform's cookie",
    },
    Row {
        fault: "target's daemon killed as it starts the guest",
        libvirt: "the guest is killed at the restart, if it did not run yet",
        ours: || {
            let mut w = world(MANAGED, PERFORMED);
            w.finish(false).unwrap();
            w.target_restarts();
            w.settle();
            w.confirm(true).unwrap();
            w
        },
        ends: MOVES,
        why: "what was recorded is kept to: the guest is started",
    },
];

fn side(guest: Guest) -> &'static str {
    match guest {
        Guest::Absent => "none",
        Guest::Paused => "held",
        Guest::Runs => "runs",
    }
}

#[test]
fn every_row_of_the_matrix_ends_as_it_says() {
    for row in MATRIX {
        let mut world = (row.ours)();
        world.settle();
        let ends = (world.source_guest, world.target_guest);
        assert_eq!(ends, row.ends, "{}: {world:?}", row.fault);
        assert_eq!(world.said_held, row.ends == HELD, "{}", row.fault);
    }
}

#[test]
fn the_matrix_is_in_the_documentation() {
    let mut table =
        String::from("| fault | libvirtd 11.3 | source | target | |\n|---|---|---|---|---|\n");
    for row in MATRIX {
        let (source, target) = (side(row.ends.0), side(row.ends.1));
        let Row {
            fault,
            libvirt,
            why,
            ..
        } = row;
        table += &format!("| {fault} | {libvirt} | {source} | {target} | {why} |\n");
    }
    crate::documented(&table);
}
