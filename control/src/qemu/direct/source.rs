//! The source's half of direct mode.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use pagelift_engine::converge::{GuestCosts, Share};
use pagelift_engine::dirty::{DirtyError, PagemapTracker, TrackedRange};
use pagelift_engine::memory::FileMemory;
use pagelift_engine::migration::RunRight;
use pagelift_engine::pipeline::{GuestError, Parts, SourceGuest};
use pagelift_engine::sys::{PagemapScan, Userfaultfd};
use pagelift_engine::wire::Fact;
use rustix::process::Pid;

use super::disk_errors::DiskErrors;
use super::rehearse;
use super::vcpus::{Throttled, Vcpus};
use super::watch::ProcessWatch;
use super::{OpenMemoryError, Preamble, facts, open_memory};
use crate::agent_client::{AgentClient, AgentError};
use crate::qemu::inspect::{RamBlock, run_state};
use crate::qemu::migration::{self, STEP_LIMIT};
use crate::qemu::source::{
    CommitError, HandedOver, HandingOver, PausedSource, PreparedSource, SourceQemu,
};
use crate::qemu::{MigrationError, Refusal, preflight, relay, vcpu_threads};
use crate::qmp::{Address, Qmp, QmpError, Timestamp};
use crate::throttle::{AgentThrottle, Permille, Shares, Throttle, ThrottlePlan};

/// How long a throttle holds that is not renewed: that of a pagelift that hangs. One that is
/// killed releases the guest at once.
const THROTTLE_LEASE: Duration = Duration::from_millis(600);

/// Which guest is to leave.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// QEMU's monitor.
    pub qmp: Address,
    /// Whether the guest is to stay when a disk of it fails and QEMU stops it for that.
    pub abort_on_error: bool,
    /// Whether to make disks that bypass the host's page cache go through it meanwhile; a guest
    /// with such disks is refused otherwise.
    pub buffer_disks: bool,
}

/// Why a guest cannot leave. It runs on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be moved safely.
    #[error("this guest cannot be moved:{}", list(.0))]
    Refused(Vec<Refusal>),
    /// There is no way to see what it writes.
    #[error("{0}")]
    NoAgent(#[from] AgentError),
    /// The kernel cannot track it.
    #[error("dirty tracking: {0}")]
    Dirty(#[from] DirtyError),
    /// QEMU did not do what was asked.
    #[error(transparent)]
    Qemu(#[from] MigrationError),
    /// Its RAM cannot be opened.
    #[error(transparent)]
    Memory(#[from] OpenMemoryError),
    /// It went away.
    #[error("QEMU: {0}")]
    Gone(std::io::Error),
    /// The monitor is no unix socket.
    #[error(
        "the monitor {0} is not a unix socket; descriptors must be passed over it: give QEMU \
         -qmp unix:PATH,server=on,wait=off and name that path"
    )]
    NotUnix(Address),
}

fn list(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(|refusal| format!("\n  - {refusal}"))
        .collect()
}

impl From<QmpError> for SourceError {
    fn from(error: QmpError) -> Self {
        Self::Qemu(error.into())
    }
}

/// A guest that can leave, with all that the engine needs.
#[derive(Debug)]
pub struct Prepared {
    /// Its RAM.
    pub memory: Arc<FileMemory>,
    /// What it writes.
    pub tracker: PagemapTracker,
    /// The guest.
    pub guest: DirectSource,
    /// What must be equal on both sides.
    pub facts: Vec<Fact>,
}

/// The guest on the source.
#[derive(Debug)]
pub struct DirectSource {
    qmp: Qmp,
    qmp_path: PathBuf,
    agent: Arc<Mutex<AgentClient>>,
    throttle: AgentThrottle,
    /// The plan in force, and when it was given; it must be given again before its lease ends.
    throttled: Option<(ThrottlePlan, Instant)>,
    vcpus: Vcpus,
    watch: ProcessWatch,
    /// What a guest is watched for that is to stay when it happens.
    disk_errors: Option<DiskErrors>,
    step: Step,
    /// Whether the guest ran when the switchover began: one that was paused stays so.
    was_running: bool,
    parts: Option<Parts>,
    relay: Option<Relay>,
}

/// Where QEMU is. A step that fails leaves `Undone`: the guest is as it was before.
#[derive(Debug)]
enum Step {
    Prepared(PreparedSource),
    Paused(PausedSource),
    HandingOver(HandingOver),
    Committed(HandedOver),
    Undone,
}

impl DirectSource {
    /// Looks at the guest, refuses what could not end well, and prepares the rest. Nothing of
    /// the guest is changed but QEMU's migration settings and, if asked for, the way of its disks,
    /// which are put back at the end.
    ///
    /// # Errors
    /// Says why the guest cannot leave, and what would help.
    pub fn prepare(options: &SourceOptions) -> Result<Prepared, SourceError> {
        let Address::Unix(path) = &options.qmp else {
            return Err(SourceError::NotUnix(options.qmp.clone()));
        };
        // The agent opens it by this name, from wherever QEMU was started.
        let qmp_path = std::path::absolute(path).map_err(SourceError::Gone)?;
        PagemapScan::probe().map_err(DirtyError::from)?;
        let source = SourceQemu::connect(&options.qmp)?;
        // Before the state is looked at: a guest that a disk has stopped already is refused.
        let disk_errors = options
            .abort_on_error
            .then(|| DiskErrors::new(source.qmp()));
        let guest = source.guest();
        let refusals = preflight::source(source.qmp(), guest, options.buffer_disks)?;
        if !refusals.is_empty() {
            return Err(SourceError::Refused(refusals));
        }
        let watch = ProcessWatch::new(guest.pid).map_err(SourceError::Gone)?;
        let blocks = guest.open_ram().map_err(MigrationError::from)?;
        let memory = Arc::new(open_memory(&blocks)?);
        let facts = facts(guest);
        let mut agent = AgentClient::connect(guest.pid)?;
        agent.hello()?;
        let tracker = tracker(&mut agent, &blocks)?;
        let qmp = source.qmp().clone();
        let vcpus = vcpu_threads(&qmp)?;
        let planned = source.plan(options.buffer_disks)?;
        // Before anything is changed, so that a sender that is killed at any moment leaves QEMU's
        // settings and disks as they were.
        agent.set_will(&qmp_path, &planned.will())?;
        let prepared = planned.prepare().inspect_err(|_| {
            // All is as it was; the will would only keep the monitor busy for a moment.
            let _ = agent.clear_will();
        })?;
        let agent = Arc::new(Mutex::new(agent));
        let guest = Self {
            qmp,
            qmp_path,
            vcpus: Vcpus::new(watch.pid(), vcpus.clone()),
            throttle: AgentThrottle::new(Arc::clone(&agent), vcpus, THROTTLE_LEASE),
            throttled: None,
            agent,
            watch,
            disk_errors,
            step: Step::Prepared(prepared),
            was_running: false,
            parts: None,
            relay: None,
        };
        Ok(Prepared {
            memory,
            tracker,
            guest,
            facts,
        })
    }

    /// When QEMU stopped the guest for a hand-over that was committed.
    pub fn stopped_at(&self) -> Option<Timestamp> {
        match &self.step {
            Step::Committed(handed_over) => handed_over.stopped_at(),
            _ => None,
        }
    }

    /// How each vCPU was throttled, in the order of their index.
    pub fn throttled(&self) -> Vec<Throttled> {
        self.vcpus.throttled(Instant::now())
    }

    /// The commit: after it the guest cannot run here, and no will can make it.
    fn commit(&mut self, handing: HandingOver) -> Result<(), GuestError> {
        // If we die between QEMU's `completed` and the hand-over, the guest would run nowhere.
        // The target has not been told yet, so it may go on here.
        let left = lock(&self.agent).set_will(&self.qmp_path, &handing.will());
        if let Err(error) = left {
            self.step = Step::HandingOver(handing);
            return Err(failed("preparing the commit", error));
        }
        match handing.commit() {
            Ok(handed_over) => self.step = Step::Committed(handed_over),
            Err(CommitError::Kept(failure)) => return Err(failed("the commit", failure)),
            // Not told the target, it stays with us; `resume` finds out what QEMU does.
            Err(error @ CommitError::Unknown(_)) => return Err(failed("the commit", error)),
        }
        // A will that may still run could start the guest a second time: then it is ours still.
        lock(&self.agent)
            .clear_will()
            .map_err(|error| failed("voiding the last will", error))
    }

    fn apply_throttle(&mut self, plan: ThrottlePlan) -> Result<(), GuestError> {
        self.throttle
            .apply(&plan)
            .map_err(|error| GuestError(error.to_string()))?;
        self.throttled = Some((plan, Instant::now()));
        Ok(())
    }

    fn release_throttle(&mut self) {
        self.throttled = None;
        self.throttle.release();
        self.vcpus.are_given(&[], Instant::now());
    }

    /// Keeps the throttle in force, well before its lease ends.
    fn renew_throttle(&mut self) -> Result<(), GuestError> {
        match self.throttled.take() {
            Some((plan, given)) if given.elapsed() >= THROTTLE_LEASE / 4 => {
                self.apply_throttle(plan)
            }
            plan => {
                self.throttled = plan;
                Ok(())
            }
        }
    }

    /// Makes a guest go on of which it is not known whether QEMU had given it up; the target was
    /// never told.
    fn continue_here(&self) -> Result<(), GuestError> {
        if !self.was_running {
            return Ok(());
        }
        let state = run_state(&self.qmp).map_err(|error| failed("asking QEMU", error))?;
        if state == "running" {
            return Ok(());
        }
        migration::resume(&self.qmp)
            .map_err(|error| failed(&format!("resuming it from {state:?}"), error))
    }
}

impl SourceGuest for DirectSource {
    fn attach(&mut self, parts: Parts) {
        self.parts = Some(parts);
    }

    fn check(&mut self) -> Result<(), GuestError> {
        if self.watch.is_alive() {
            return self.renew_throttle();
        }
        Err(GuestError(format!(
            "its QEMU, process {}, has ended",
            self.watch.pid()
        )))
    }

    fn agrees(&mut self) -> Result<(), GuestError> {
        let failed = self.disk_errors.as_mut().and_then(DiskErrors::look);
        failed.map_or(Ok(()), |words| Err(GuestError(words)))
    }

    fn throttle(&mut self, share: Share) -> Result<(), GuestError> {
        self.throttle_vcpus(&vec![share; self.vcpus.count()])
    }

    fn vcpu_times(&mut self) -> Option<Vec<Duration>> {
        self.vcpus.times()
    }

    fn throttle_vcpus(&mut self, shares: &[Share]) -> Result<(), GuestError> {
        if shares.iter().all(|share| *share == Share::NONE) {
            self.release_throttle();
            return Ok(());
        }
        let permille = |share: &Share| {
            Permille::new(share.as_permille())
                .ok_or_else(|| GuestError(format!("it cannot be throttled to {share}")))
        };
        let permilles = shares.iter().map(permille).collect::<Result<_, _>>()?;
        self.apply_throttle(ThrottlePlan::suited(Shares::PerVcpu(permilles)))?;
        self.vcpus.are_given(shares, Instant::now());
        Ok(())
    }

    fn costs(&mut self) -> GuestCosts {
        rehearse::costs(&self.qmp)
    }

    fn stop(&mut self) -> Result<Duration, GuestError> {
        let Step::Prepared(prepared) = std::mem::replace(&mut self.step, Step::Undone) else {
            return Err(GuestError("it was stopped before".into()));
        };
        let parts = self
            .parts
            .take()
            .ok_or_else(|| GuestError("it is not attached".into()))?;
        let (switching, stream) = prepared
            .begin_switchover()
            .map_err(|error| failed("QEMU's migrate", error))?;
        self.was_running = switching.was_running();
        self.relay = Some(
            Relay::start(stream, parts, self.was_running)
                .map_err(|error| failed("relaying QEMU's stream", error))?,
        );
        let paused = switching
            .wait_paused(STEP_LIMIT)
            .map_err(|error| failed("stopping it", error))?;
        // Not earlier: a guest at full speed would write more until it stands still.
        self.release_throttle();
        let ago = paused.stopped_at().map_or(Duration::ZERO, |at| {
            SystemTime::now()
                .duration_since(at.system_time())
                .unwrap_or_default()
        });
        self.step = Step::Paused(paused);
        Ok(ago)
    }

    fn save_state(&mut self) -> Result<(), GuestError> {
        let Step::Paused(paused) = std::mem::replace(&mut self.step, Step::Undone) else {
            return Err(GuestError("it is not stopped".into()));
        };
        let handing = paused
            .continue_device_state()
            .map_err(|error| failed("QEMU's migrate-continue", error))?;
        self.step = Step::HandingOver(handing);
        Ok(())
    }

    fn give_up(&mut self) -> Result<(), GuestError> {
        match std::mem::replace(&mut self.step, Step::Undone) {
            Step::HandingOver(handing) => self.commit(handing),
            other => {
                self.step = other;
                Err(GuestError("its device state was not sent".into()))
            }
        }
    }

    fn resume(&mut self, _right: &RunRight) -> Result<(), GuestError> {
        let undone = match std::mem::replace(&mut self.step, Step::Undone) {
            Step::Prepared(prepared) => prepared.cancel(),
            Step::Paused(paused) => paused.cancel(),
            Step::HandingOver(handing) => handing.cancel(),
            Step::Committed(handed_over) => handed_over.take_back(),
            Step::Undone => return self.continue_here(),
        };
        undone.map_err(|error| failed("QEMU", error))
    }

    fn released(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.end();
        }
        // What follows is tidying up; the guest is where it belongs. A will that is not cleared
        // would do nothing but cancel a migration that is over.
        let _ = lock(&self.agent).clear_will();
        let _ = match std::mem::replace(&mut self.step, Step::Undone) {
            Step::Prepared(prepared) => prepared.cancel(),
            Step::Committed(handed_over) => handed_over.finish(),
            _ => Ok(()),
        };
    }
}

/// Tracks what QEMU's process writes to its RAM.
fn tracker(agent: &mut AgentClient, blocks: &[RamBlock]) -> Result<PagemapTracker, SourceError> {
    let lent = agent.userfaultfd()?;
    let uffd = Userfaultfd::from_fd(lent.fd);
    uffd.enable_async_write_protect()
        .map_err(DirtyError::from)?;
    let mut first = 0;
    let ranges = blocks
        .iter()
        .map(|block| {
            let pages = block.bytes / pagelift_engine::units::PAGE_BYTES as u64;
            let range = pagelift_engine::units::PageRange::new(first, pages);
            first += pages;
            TrackedRange {
                address: block.address,
                range,
            }
        })
        .collect();
    let pid = i32::try_from(agent.pid()).ok().and_then(Pid::from_raw);
    Ok(PagemapTracker::new(pid, uffd, ranges)?)
}

fn lock(agent: &Mutex<AgentClient>) -> MutexGuard<'_, AgentClient> {
    agent.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(what: &str, error: impl std::fmt::Display) -> GuestError {
    GuestError(format!("{what}: {error}"))
}

/// The two threads that pass QEMU's stream on, and its answers back.
#[derive(Debug)]
struct Relay {
    stream: UnixStream,
    threads: [JoinHandle<()>; 2],
}

impl Relay {
    fn start(stream: UnixStream, parts: Parts, run: bool) -> std::io::Result<Self> {
        let Parts {
            state,
            incoming,
            waker: _,
        } = parts;
        state.send(&Preamble { run }.encode(), false)?;
        let (from, mut answers) = (stream.try_clone()?, stream.try_clone()?);
        let down = std::thread::Builder::new()
            .name("pagelift-qemu".into())
            .spawn(move || {
                // A broken connection ends the migration elsewhere; QEMU is then told to cancel. It
                // can only hear that if it need not wait here, with its big lock held.
                if relay::downstream(&from, StateWriter(state)).is_err() {
                    let _already_closed = from.shutdown(Shutdown::Both);
                }
            })?;
        let up = std::thread::Builder::new()
            .name("pagelift-reply".into())
            .spawn(move || {
                for chunk in incoming {
                    if answers.write_all(&chunk.bytes).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            stream,
            threads: [down, up],
        })
    }

    /// Ends the passing on. The second thread goes when the engine's queue does.
    fn end(self) {
        // Our end may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
        let [down, _up] = self.threads;
        let _ = down.join();
    }
}

/// The engine's device state as a byte stream.
struct StateWriter(pagelift_engine::pipeline::StateSender);

impl Write for StateWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send(bytes, false)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
