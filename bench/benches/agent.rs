//! The requests of a hand-over to the agents: each is a round trip to a thread inside QEMU, most of
//! them while the guest stands still.

#![allow(
    missing_docs,
    reason = "criterion's macros generate undocumented items"
)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use pagelift_agent_protocol::{JournalPhase, Name, ParameterValue, RollbackStep};
use pagelift_control::agent_client::AgentClient;
use pagelift_tests::program;

const SESSION: u128 = 7;

/// A QEMU with an agent; killed when dropped.
struct Qemu(Child);

impl Qemu {
    fn start(monitor: &Path) -> Self {
        let mut command = Command::new(program("pagelift").expect("pagelift is built"));
        command
            .args(
                "run -- qemu-system-x86_64 -M pc -accel tcg -m 64 -nodefaults -display none -S"
                    .split(' '),
            )
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .stdin(Stdio::null());
        Self(command.spawn().expect("pagelift starts"))
    }

    /// Its agent, once it is there.
    fn agent(&self, monitor: &Path) -> AgentClient {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if monitor.exists()
                && let Ok(mut client) = AgentClient::connect(self.0.id())
                && client.keeps_journal().is_ok()
            {
                return client;
            }
            assert!(Instant::now() < deadline, "QEMU starts, with its agent");
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A script like that of a source at its commit.
fn script() -> Vec<RollbackStep> {
    let name = |text| Name::new(text).expect("a short name");
    let capabilities = [
        "events",
        "pause-before-switchover",
        "return-path",
        "x-ignore-shared",
    ];
    let parameters = [
        "max-bandwidth",
        "downtime-limit",
        "avail-switchover-bandwidth",
    ];
    vec![
        RollbackStep::CancelMigration,
        RollbackStep::Continue,
        RollbackStep::SetParameters(
            parameters
                .map(|text| (name(text), ParameterValue::Number(300)))
                .into(),
        ),
        RollbackStep::SetCapabilities(capabilities.map(|text| (name(text), false)).into()),
    ]
}

fn requests(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a folder");
    let monitor = dir.path().join("qmp.sock");
    let qemu = Qemu::start(&monitor);
    let mut agent = qemu.agent(&monitor);
    let mut group = c.benchmark_group("agent");
    group.bench_function("nothing", |b| {
        b.iter(|| {
            agent.journal().expect("an answer");
        });
    });
    group.bench_function("record", |b| {
        b.iter(|| {
            let recorded = agent.record(SESSION, JournalPhase::Kept, &monitor);
            recorded.expect("recorded");
        });
    });
    let steps = script();
    group.bench_function("script", |b| {
        b.iter(|| {
            agent.set_rollback(&monitor, &steps).expect("set");
        });
    });
    group.bench_function("lease", |b| {
        b.iter(|| {
            agent.hold(Duration::from_secs(60)).expect("held");
        });
    });
    group.finish();
    agent.clear_rollback().expect("cleared");
}

criterion_group!(benches, requests);
criterion_main!(benches);
