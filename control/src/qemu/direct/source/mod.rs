//! The source's half of direct mode.
//!
//! Invariants: QEMU's step is a value that each call takes and replaces, so that a guest which was
//! handed over cannot be cancelled, nor one be handed over that was never stopped; a throttle is
//! renewed well before its lease ends, and let go of once the guest stands still.

mod prepare;
mod relay;

pub use prepare::{Prepared, SourceError, SourceOptions};

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use pagelift_engine::converge::{GuestCosts, Share};
use pagelift_engine::migration::RunRight;
use pagelift_engine::pipeline::{GuestError, Parts, SourceGuest};

use self::relay::Relay;
use super::disk_errors::DiskErrors;
use super::rehearse;
use super::vcpus::{Throttled, Vcpus};
use super::watch::ProcessWatch;
use crate::agent_client::AgentClient;
use crate::qemu::inspect::run_state;
use crate::qemu::migration::{self, STEP_LIMIT};
use crate::qemu::source::{CommitError, HandedOver, HandingOver, PausedSource, PreparedSource};
use crate::qmp::{Qmp, Timestamp};
use crate::throttle::{AgentThrottle, Permille, Shares, Throttle, ThrottlePlan};

/// How long a throttle holds that is not renewed: that of a pagelift that hangs. One that is
/// killed releases the guest at once.
const THROTTLE_LEASE: Duration = Duration::from_millis(600);

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

fn lock(agent: &Mutex<AgentClient>) -> MutexGuard<'_, AgentClient> {
    agent.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(what: &str, error: impl std::fmt::Display) -> GuestError {
    GuestError(format!("{what}: {error}"))
}
