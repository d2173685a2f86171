//! The agent in a hand-over: the lease of the guest's stop, and the journal.

mod unanswered;

use std::time::{Duration, Instant};

use pagelift_agent_protocol::{ErrorCode, JournalPhase, NO_SESSION, RollbackStep};
use pagelift_control::agent_client::{AgentClient, AgentError};
use pagelift_control::qmp::{Address, Qmp};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::agent_support::{Vm, wait_until};

const SESSION: u128 = 1 << 90 | 7;

/// Whatever it still has of QEMU is taken away, so that it cannot go on where it was.
#[test]
fn a_client_that_holds_the_guest_too_long_is_cut_off() {
    let Some(vm) = Vm::start(&[]) else { return };
    let monitor = vm.path("rollback.sock");
    let qmp = Qmp::connect(&Address::Unix(monitor.clone())).unwrap();
    let mut client = AgentClient::connect(vm.pid()).unwrap();
    let lease = Duration::from_millis(300);
    let without_script = client.hold(lease).unwrap_err();
    assert!(matches!(
        without_script,
        AgentError::Refused {
            code: ErrorCode::NoLease,
            ..
        }
    ));
    client
        .set_rollback(&monitor, &[RollbackStep::Continue])
        .unwrap();
    qmp.execute("stop", Value::Null).unwrap();
    client
        .record(SESSION, JournalPhase::Moving, &monitor)
        .unwrap();
    let began = Instant::now();
    client.hold(lease).unwrap();
    std::thread::sleep(lease / 2);
    // Renewed, it lasts.
    client.hold(lease).unwrap();
    std::thread::sleep(lease / 2);
    assert_eq!(vm.status(), "paused");
    wait_until("the guest to go on", || vm.status() == "running");
    assert!(began.elapsed() >= lease + lease / 2);

    assert!(qmp.execute("stop", Value::Null).unwrap_err().is_lost());
    let late = client
        .record(SESSION, JournalPhase::HandedOver, &monitor)
        .unwrap_err();
    assert!(late.is_lease_over(), "{late}");
    let found = vm.next_client().journal().unwrap().unwrap();
    assert_eq!(found.phase, JournalPhase::Moving);
    assert_eq!(vm.status(), "running");
}

/// All of QEMU stands still, its agent too, when the lease ends and the record comes.
#[test]
fn a_hand_over_that_waited_past_the_lease_is_refused() {
    let Some(mut vm) = Vm::start(&[]) else { return };
    let monitor = vm.path("rollback.sock");
    let mut client = AgentClient::connect(vm.pid()).unwrap();
    client
        .set_rollback(&monitor, &[RollbackStep::Continue])
        .unwrap();
    vm.execute("stop");
    client
        .record(SESSION, JournalPhase::Moving, &monitor)
        .unwrap();
    let lease = Duration::from_millis(300);
    client.hold(lease).unwrap();
    let qemu = vm.stand_still();
    let late = std::thread::scope(|scope| {
        let record = scope.spawn(|| client.record(SESSION, JournalPhase::HandedOver, &monitor));
        std::thread::sleep(lease * 2);
        kill_process(qemu, Signal::CONT).unwrap();
        record.join().unwrap().unwrap_err()
    });
    assert!(late.is_lease_over(), "{late}");
    wait_until("the guest to go on", || vm.status() == "running");
    let found = vm.next_client().journal().unwrap().unwrap();
    assert_eq!(found.phase, JournalPhase::Moving);
}

#[test]
fn a_promise_outlives_its_client_and_is_not_taken_back() {
    let Some(mut vm) = Vm::start(&[]) else { return };
    let monitor = vm.path("rollback.sock");
    let mut client = AgentClient::connect(vm.pid()).unwrap();
    assert_eq!(client.journal().unwrap(), None);
    client
        .set_rollback(&monitor, &[RollbackStep::Continue])
        .unwrap();
    client.hold(Duration::from_millis(300)).unwrap();
    vm.execute("stop");
    client
        .record(SESSION, JournalPhase::HandedOver, &monitor)
        .unwrap();
    // Lease and script ended with the record.
    std::thread::sleep(Duration::from_millis(500));
    client.hello().unwrap();
    drop(client);

    let mut next = vm.next_client();
    assert_eq!(vm.status(), "paused");
    let found = next.journal().unwrap().unwrap();
    let expected = (SESSION, JournalPhase::HandedOver);
    assert_eq!((found.session, found.phase), expected);
    assert!(found.age_ms >= 400, "{found:?}");
    let refused = next
        .record(SESSION, JournalPhase::Kept, &monitor)
        .unwrap_err();
    assert!(matches!(
        refused,
        AgentError::Refused {
            code: ErrorCode::AgainstPromise,
            ..
        }
    ));
    // Another migration is another story, which begins when this one is settled.
    let unsettled = next
        .record(SESSION + 1, JournalPhase::Moving, &monitor)
        .unwrap_err();
    assert!(
        unsettled.to_string().contains("'pagelift settle'"),
        "{unsettled}"
    );
    assert_eq!(
        next.journal().unwrap().unwrap().phase,
        JournalPhase::HandedOver
    );
    next.record(NO_SESSION, JournalPhase::Kept, &monitor)
        .unwrap();
    next.record(SESSION + 1, JournalPhase::Moving, &monitor)
        .unwrap();
    let said = vm.standard_error();
    assert!(said.contains("'cont' is refused until"), "{said}");
}
