//! What a target answers, and what it forgets, without a QEMU.

use super::*;
use crate::config::Config;

fn daemon(dir: &tempfile::TempDir) -> Arc<Daemon> {
    let mut config = Config::default();
    config.paths.state = dir.path().join("state");
    config.paths.run = dir.path().join("run");
    Arc::new(Daemon::new(config).unwrap())
}

fn incoming(machine: Target) -> Arc<Incoming> {
    Arc::new(Incoming {
        uuid: Uuid([1; 16]),
        names: ("g".into(), "g".into()),
        machine: Mutex::new(machine),
        id: Some(Uuid([2; 16])),
        offline: None,
        qemu: None,
    })
}

#[test]
fn a_guest_that_is_being_started_is_no_answer_yet() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(&dir);
    let client = Client(1);
    let answers = [
        (Target::Prepared { client }, ErrorCode::MigrateFinishOk),
        (
            Target::Starting { told: false },
            ErrorCode::OperationTimeout,
        ),
        (Target::Running, ErrorCode::OperationInvalid),
        (Target::Empty, ErrorCode::MigrateFinishOk),
    ];
    for (machine, code) in answers {
        assert_eq!(incoming(machine).asked(&daemon).code, code, "{machine:?}");
    }
}

#[test]
fn one_that_was_replaced_forgets_nothing_of_its_successor() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = daemon(&dir);
    let (old, new) = (incoming(Target::Empty), incoming(Target::Running));
    let migrations = daemon.migrations();
    lock(&migrations.incoming).insert(new.uuid, Arc::clone(&new));
    migrations.forget(&old);
    let found = migrations.arriving("g", None).unwrap();
    assert!(Arc::ptr_eq(&found, &new));
    assert!(migrations.arriving("g", Some(Uuid([3; 16]))).is_none());
    migrations.forget(&new);
    assert!(migrations.arriving("g", None).is_none());
}
