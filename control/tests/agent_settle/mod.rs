//! Settling touches no QEMU whose journal says nothing of the migration.

use pagelift_agent_protocol::JournalPhase::{self, Granted, HandedOver, Moving, Prepared};
use pagelift_control::agent_client::AgentClient;
use pagelift_control::qmp::Address;
use pagelift_control::settle::{LookError, Side, decide};
use pagelift_engine::migration::settle::Owner;

use crate::agent_support::{Vm, wait_until};

const SESSION: u128 = 7;

/// A disk that can be let go of.
const DISK: [&str; 2] = ["-blockdev", "driver=null-co,node-name=disk,size=1048576"];

/// A QEMU whose guest is stopped, with `phases` in its journal.
fn stopped(phases: &[JournalPhase]) -> Option<Vm> {
    let mut vm = Vm::start(&DISK)?;
    vm.execute("stop");
    let mut client = AgentClient::connect(vm.pid()).unwrap();
    for phase in phases {
        client
            .record(SESSION, *phase, &vm.path("rollback.sock"))
            .unwrap();
    }
    Some(vm)
}

fn look(vm: &Vm) -> Side {
    let mut found = None;
    // The agent notices a little later that its client is gone.
    wait_until("the agent to be free", || {
        found = Side::look(&Address::Unix(vm.path("qmp.sock"))).ok();
        found.is_some()
    });
    found.unwrap()
}

fn is_untouched(vm: &mut Vm) -> bool {
    let nodes = vm.execute("query-named-block-nodes");
    let nodes = nodes.as_array().unwrap();
    vm.status() == "paused" && !nodes.is_empty() && nodes.iter().all(|node| node["active"] != false)
}

#[test]
fn a_qemu_without_a_record_of_the_migration_is_left_alone() {
    // Beside a source that keeps its guest, and beside a target that was granted it.
    for (phases, owner) in [
        (&[Moving][..], Owner::Source),
        (&[Prepared, Granted], Owner::Target),
    ] {
        let (Some(party), Some(mut stranger)) = (stopped(phases), stopped(&[])) else {
            return;
        };
        for stranger_is_first in [true, false] {
            let (mut known, mut unknown) = (look(&party), look(&stranger));
            let (one, other) = match stranger_is_first {
                true => (&mut unknown, &mut known),
                false => (&mut known, &mut unknown),
            };
            let decision = decide(&one.word(), Some(&other.word())).unwrap();
            assert_eq!((decision.session.0, decision.owner), (SESSION, owner));
            let carried = decision.carry_out(one, Some(other)).unwrap();
            assert!(carried.runs);
            assert_eq!(carried.left_alone, [stranger.path("qmp.sock")]);
            drop((known, unknown));
            assert_eq!(party.status(), "running");
            assert!(is_untouched(&mut stranger), "{owner:?}");
        }
    }
}

/// A source that was left by its guest, and a QEMU that the guest never came to.
#[test]
fn nobody_is_given_a_guest_that_another_was_promised() {
    let (Some(source), Some(mut stranger)) = (stopped(&[Moving, HandedOver]), stopped(&[])) else {
        return;
    };
    let (one, mut other) = (look(&source), look(&stranger));
    let undecided = decide(&one.word(), Some(&other.word())).unwrap_err();
    assert!(
        undecided.to_string().contains("has no record of it"),
        "{undecided}"
    );
    // Nor by a person's word: there is no doubt that it would end.
    let refused = other.run_fenced().unwrap_err();
    assert!(matches!(refused, LookError::NothingRecorded), "{refused}");
    drop((one, other));
    assert!(is_untouched(&mut stranger));
    assert_eq!(source.status(), "paused");
}
