//! A record of the hand-over that is not answered: what the client finds out when it comes back.

use std::thread::{scope, sleep};
use std::time::Duration;

use pagelift_agent_protocol::JournalPhase::{HandedOver, Moving};
use pagelift_agent_protocol::RollbackStep;
use pagelift_control::agent_client::{AgentClient, TIMEOUT};
use pagelift_engine::guest::RecordError;
use rustix::process::{Pid, Signal, kill_process};

use super::SESSION;
use crate::agent_support::{Vm, wait_until};

/// A source whose guest is stopped, for as long as `lease`.
fn stopped(vm: &mut Vm, lease: Duration) -> AgentClient {
    let monitor = vm.path("rollback.sock");
    let mut client = AgentClient::connect(vm.pid()).unwrap();
    client
        .set_rollback(&monitor, &[RollbackStep::Continue])
        .unwrap();
    vm.execute("stop");
    client.record(SESSION, Moving, &monitor).unwrap();
    client.hold(lease).unwrap();
    client
}

/// Has the hand-over recorded while all of QEMU stands still, and does `then` once the client has
/// stopped waiting for the answer.
fn record_unanswered(
    vm: &Vm,
    client: &mut AgentClient,
    then: impl FnOnce(Pid),
) -> Result<(), RecordError> {
    let monitor = vm.path("rollback.sock");
    let qemu = vm.stand_still();
    scope(|scope| {
        let record = scope.spawn(|| client.record_surely(SESSION, HandedOver, &monitor));
        sleep(TIMEOUT + Duration::from_secs(1));
        then(qemu);
        record.join().unwrap()
    })
}

#[test]
fn a_record_whose_answer_is_late_is_found_in_the_journal() {
    let Some(mut vm) = Vm::start(&[]) else { return };
    let mut client = stopped(&mut vm, TIMEOUT * 4);
    let recorded = record_unanswered(&vm, &mut client, |qemu| {
        kill_process(qemu, Signal::CONT).unwrap();
    });
    assert_eq!(recorded, Ok(()));
    // It goes on as if nothing had been.
    assert_eq!(client.journal().unwrap().unwrap().phase, HandedOver);
    assert_eq!(vm.status(), "paused");
}

#[test]
fn a_record_that_came_when_the_guest_went_on_is_refused() {
    let Some(mut vm) = Vm::start(&[]) else { return };
    let mut client = stopped(&mut vm, Duration::from_millis(300));
    let recorded = record_unanswered(&vm, &mut client, |qemu| {
        kill_process(qemu, Signal::CONT).unwrap();
    });
    assert!(
        matches!(recorded, Err(RecordError::Refused(_))),
        "{recorded:?}"
    );
    wait_until("the guest to go on", || vm.status() == "running");
    assert_eq!(client.journal().unwrap().unwrap().phase, Moving);
}

#[test]
fn a_record_that_nobody_can_be_asked_about_is_unknown() {
    let Some(mut vm) = Vm::start(&[]) else { return };
    let mut client = stopped(&mut vm, TIMEOUT * 4);
    let mut stands = None;
    let recorded = record_unanswered(&vm, &mut client, |qemu| stands = Some(qemu));
    assert!(
        matches!(recorded, Err(RecordError::Unknown(_))),
        "{recorded:?}"
    );
    drop(client);
    kill_process(stands.unwrap(), Signal::CONT).unwrap();
    // It was made all the same, and holds: nobody starts that guest here.
    let found = vm.next_client().journal().unwrap().unwrap();
    assert_eq!((found.session, found.phase), (SESSION, HandedOver));
    wait_until("the agent to hold the guest", || {
        vm.standard_error().contains("'cont' is refused until")
    });
    assert_eq!(vm.status(), "paused");
}

/// The journal ends with its QEMU, so that a record that may have been made binds nobody.
#[test]
fn a_record_in_a_qemu_that_has_ended_is_refused() {
    let Some(mut vm) = Vm::start(&[]) else { return };
    let mut client = stopped(&mut vm, TIMEOUT * 4);
    let monitor = vm.path("rollback.sock");
    let qemu = vm.stand_still();
    let recorded = scope(|scope| {
        let record = scope.spawn(|| client.record_surely(SESSION, HandedOver, &monitor));
        kill_process(qemu, Signal::KILL).unwrap();
        record.join().unwrap()
    });
    assert!(
        matches!(recorded, Err(RecordError::Refused(_))),
        "{recorded:?}"
    );
}
