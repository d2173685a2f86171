//! Throttling by the agent, on a guest that writes as fast as it can.
//!
//! What is asserted holds on a machine of any speed and load. A thread that is stopped for 990
//! thousandths of its time gets about a hundredth of a processor, never a tenth; one that is
//! not stopped gets a tenth sooner or later, however many others want the processor.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pagelift_control::agent_client::{AgentClient, AgentError};
use pagelift_control::driver::qemu::vcpu_threads;
use pagelift_control::qmp::{Address, Qmp};
use pagelift_control::throttle::{Actuator, AgentThrottle};
use pagelift_engine::converge::ThrottleShare;
use pagelift_tests::bed::ShmFile;
use pagelift_tests::{
    Bed, Images, PATIENCE, Qemu, Ticks, Workload, guest_images, program, require,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const PERIOD: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(60);

/// In the environment of this binary when it is a client: QEMU's process, and the threads.
const ROLE_PID: &str = "PAGELIFT_TEST_PID";
const ROLE_THREADS: &str = "PAGELIFT_TEST_THREADS";

fn workload(cpus: u32) -> Workload {
    Workload {
        cpus,
        threads: cpus,
        fill_bytes: 16 << 20,
        rate_bytes_per_s: u64::MAX,
        ..Workload::default()
    }
}

/// A busy guest under the agent.
struct Guest {
    qemu: Qemu,
    qmp: Qmp,
    pid: u32,
    vcpus: Vec<u32>,
    _ram: ShmFile,
}

impl Guest {
    fn start(bed: &Bed, images: &Images, cpus: u32, args: &[&str]) -> Result<Self> {
        let workload = workload(cpus);
        let ram = bed.shm_file("ram", workload.memory_mib << 20)?;
        let mut machine = Qemu::builder(bed, images)
            .workload(&workload)
            .prefix([program("pagelift")?.as_os_str()])
            .prefix(["run", "--"])
            .ram_file(ram.path());
        for arg in args {
            machine = machine.arg(arg);
        }
        let qemu = machine.start("guest")?;
        qemu.wait_ready()?;
        qemu.wait_ticks(1)?;
        let qmp = Qmp::connect(&Address::Unix(qemu.qmp_path()))?;
        Ok(Self {
            pid: qemu.qemu_pid()?,
            vcpus: vcpu_threads(&qmp)?,
            qemu,
            qmp,
            _ram: ram,
        })
    }

    /// The share of a processor that thread `tid` got during some moments.
    fn share(&self, tid: u32) -> Result<f64> {
        let cpu_s = || -> Result<f64> {
            let text = fs::read_to_string(format!("/proc/{}/task/{tid}/schedstat", self.pid))?;
            let ns: u64 = text.split(' ').next().context("a number")?.parse()?;
            Ok(Duration::from_nanos(ns).as_secs_f64())
        };
        let (start, start_s) = (Instant::now(), cpu_s()?);
        thread::sleep(Duration::from_millis(500));
        // The clock is read last: a pause between the two makes the share smaller.
        let used_s = cpu_s()? - start_s;
        Ok(used_s / start.elapsed().as_secs_f64())
    }

    fn is_stopped(&self, tid: u32) -> Result<bool> {
        Ok(self.share(tid)? < 0.1)
    }

    fn wait_until_free(&self, tid: u32) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.is_stopped(tid)? {
            anyhow::ensure!(Instant::now() < deadline, "thread {tid} is still stopped");
        }
        Ok(())
    }

    /// A client process that throttles all vCPUs to a hundredth and goes on renewing that.
    fn spawn_client(&self) -> Result<Client> {
        let threads: Vec<_> = self.vcpus.iter().map(u32::to_string).collect();
        let mut child = Command::new(env::current_exe()?)
            .args(["--exact", "role", "--nocapture"])
            .env(ROLE_PID, self.pid.to_string())
            .env(ROLE_THREADS, threads.join(","))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(child.stdout.take().context("piped")?);
        let client = Client(child);
        for line in said.lines() {
            if line?.contains("throttled") {
                return Ok(client);
            }
        }
        anyhow::bail!("the client ended");
    }
}

/// A client process; killed when dropped.
struct Client(Child);

impl Client {
    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.0.id().cast_signed()).context("a process id")?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What this binary does when it is run as a client; nothing in an ordinary run.
#[test]
fn role() -> Result<()> {
    let Ok(pid) = env::var(ROLE_PID) else {
        return Ok(());
    };
    let threads = env::var(ROLE_THREADS)?;
    let threads: Vec<(u32, ThrottleShare)> = threads
        .split(',')
        .map(|tid| Ok((tid.parse()?, ThrottleShare::MOST)))
        .collect::<Result<_>>()?;
    let mut agent = AgentClient::connect(pid.parse()?)?;
    // Longer than a busy machine keeps a client from running.
    let lease = Duration::from_secs(5);
    agent.throttle(&threads, PERIOD, lease)?;
    println!("throttled");
    for _ in 0..600 {
        thread::sleep(Duration::from_millis(100));
        agent.renew(lease)?;
    }
    Ok(())
}

#[test]
fn stops_for_the_share_asked_for_and_releases() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let guest = Guest::start(&bed, &images, 1, &[])?;
    let vcpu = guest.vcpus[0];
    let agent = Arc::new(Mutex::new(AgentClient::connect(guest.pid)?));
    let mut throttle = AgentThrottle::new(agent, guest.vcpus.clone(), LONG);
    for period_ms in [1, 5, 20, 50] {
        for (permille, ceiling) in [(500, 0.8), (900, 0.4), (990, 0.1)] {
            let share = ThrottleShare::permille(permille);
            throttle.apply(&[share], Duration::from_millis(period_ms))?;
            let got = guest.share(vcpu)?;
            assert!(got < ceiling, "{permille} at {period_ms} ms: {got}");
        }
    }
    throttle.release();
    guest.wait_until_free(vcpu)?;
    throttle.apply(&[ThrottleShare::MOST], PERIOD)?;
    assert!(guest.is_stopped(vcpu)?);
    drop(throttle);
    guest.wait_until_free(vcpu)?;
    guest.qemu.wait_ticks(2)?;
    assert_eq!(guest.qemu.verify()?.bad, 0);
    drop(guest);
    bed.finish();
    Ok(())
}

#[test]
fn one_vcpu_is_stopped_and_the_other_runs() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let guest = Guest::start(&bed, &images, 2, &[])?;
    assert_eq!(guest.vcpus.len(), 2);
    let mut agent = AgentClient::connect(guest.pid)?;
    for (stopped, free) in [(0, 1), (1, 0)] {
        agent.throttle(
            &[(guest.vcpus[stopped], ThrottleShare::permille(950))],
            PERIOD,
            LONG,
        )?;
        assert!(guest.is_stopped(guest.vcpus[stopped])?);
        guest.wait_until_free(guest.vcpus[free])?;
    }
    drop(agent);
    guest.wait_until_free(guest.vcpus[1])?;
    drop(guest);
    bed.finish();
    Ok(())
}

#[test]
fn a_client_that_is_killed_or_hangs_does_not_leave_the_guest_slow() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    // As libvirt starts it: what the throttle calls is allowed.
    let sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
    let guest = Guest::start(&bed, &images, 1, &["-sandbox", sandbox])?;
    let vcpu = guest.vcpus[0];

    let client = guest.spawn_client()?;
    assert!(guest.is_stopped(vcpu)?);
    client.signal(Signal::KILL)?;
    guest.wait_until_free(vcpu)?;
    drop(client);

    let client = guest.spawn_client()?;
    assert!(guest.is_stopped(vcpu)?);
    client.signal(Signal::STOP)?;
    guest.wait_until_free(vcpu)?;
    let output = guest.qemu.output();
    assert!(output.contains("the throttle's lease is over"), "{output}");
    drop(client);

    let mut agent = AgentClient::connect(guest.pid)?;
    agent.throttle(&[(vcpu, ThrottleShare::MOST)], PERIOD, LONG)?;
    assert!(guest.is_stopped(vcpu)?);
    agent.renew(Duration::from_millis(10))?;
    guest.wait_until_free(vcpu)?;
    let error = agent.renew(LONG).expect_err("the lease was over");
    assert!(error.to_string().contains("send THROTTLE again"), "{error}");
    agent.throttle(&[(vcpu, ThrottleShare::MOST)], PERIOD, LONG)?;
    assert!(guest.is_stopped(vcpu)?);
    agent.release()?;
    guest.wait_until_free(vcpu)?;

    drop((agent, guest));
    bed.finish();
    Ok(())
}

#[test]
fn qemu_answers_and_says_which_threads_are_not_its_vcpus() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let guest = Guest::start(&bed, &images, 1, &[])?;
    let vcpu = guest.vcpus[0];
    let mut agent = AgentClient::connect(guest.pid)?;
    agent.throttle(
        &[(vcpu, ThrottleShare::MOST)],
        Duration::from_millis(50),
        LONG,
    )?;
    for _ in 0..50 {
        guest.qmp.execute("query-status", Value::Null)?;
    }
    for _ in 0..3 {
        guest.qmp.execute("stop", Value::Null)?;
        assert_eq!(guest.qemu.run_state()?, "paused");
        guest.qmp.execute("cont", Value::Null)?;
    }
    // Threads of another process; one that cannot be; QEMU's main loop.
    let own = std::process::id();
    let none = (1 << 22) + 1;
    let half = ThrottleShare::permille(500);
    let mut refused = |tids: &[u32], text: &str| {
        let threads: Vec<_> = tids.iter().map(|&tid| (tid, half)).collect();
        let error = agent
            .throttle(&threads, PERIOD, LONG)
            .expect_err("it is no vCPU");
        assert!(matches!(error, AgentError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    refused(&[vcpu, own, none], &format!("no thread {own}, {none} in"));
    refused(&[guest.pid], "is no vCPU");
    assert!(guest.is_stopped(vcpu)?, "what was asked before stays");
    let error = agent.throttle(&[(vcpu, half)], Duration::from_millis(51), LONG);
    assert!(
        matches!(error, Err(AgentError::BadThrottle(_))),
        "{error:?}"
    );
    // The same signal from elsewhere does nothing.
    let kill = format!("kill -61 {}", guest.pid);
    let status = Command::new("sh").args(["-c", &kill]).status()?;
    assert!(status.success());
    assert!(guest.is_stopped(vcpu)?);
    agent.release()?;
    guest.wait_until_free(vcpu)?;
    drop((agent, guest));
    bed.finish();
    Ok(())
}

#[test]
fn a_guest_migrates_while_it_is_throttled() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let guest = Guest::start(&bed, &images, 1, &[])?;
    let workload = workload(1);
    let ram = bed.shm_file("target-ram", workload.memory_mib << 20)?;
    let target = Qemu::builder(&bed, &images)
        .workload(&workload)
        .ram_file(ram.path())
        .waiting()
        .start("target")?;
    let uri = json!({ "uri": format!("unix:{}", bed.dir().join("move").display()) });
    target.execute("migrate-incoming", uri.clone())?;
    let mut agent = AgentClient::connect(guest.pid)?;
    agent.throttle(
        &[(guest.vcpus[0], ThrottleShare::permille(900))],
        PERIOD,
        LONG,
    )?;
    guest.qemu.execute("migrate", uri)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = guest.qemu.execute("query-migrate", json!({}))?;
        match state["status"].as_str() {
            Some("completed") => break,
            Some("failed" | "cancelled") => anyhow::bail!("{state}"),
            _ => anyhow::ensure!(Instant::now() < deadline, "{state}"),
        }
        agent.renew(LONG)?;
        thread::sleep(Duration::from_millis(20));
    }
    agent.release()?;
    target.wait_ticks(5)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[guest.qemu.log(), target.log()])?;
    drop((agent, guest, target, ram));
    bed.finish();
    Ok(())
}
