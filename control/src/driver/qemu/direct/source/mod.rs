//! The source's half of direct mode.
//!
//! Invariants: QEMU's step is a value that each call takes and replaces, so that a guest which was
//! handed over cannot be cancelled, nor one be handed over that was never stopped; a throttle is
//! let go of once the guest stands still.

mod inspect;
mod relay;

pub use inspect::InspectedQemuSource;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pagelift_engine::converge::SwitchoverCosts;
use pagelift_engine::guest::{self, DeviceChannel, GuestError, SourceGuest, StateFlow, Throttler};
use pagelift_engine::migration::GuestLocation;
use tracing::{debug, info};

use self::relay::Relay;
use super::disk_errors::DiskErrors;
use super::switchover_costs;
use super::watch::ProcessWatch;
use crate::agent_client::AgentClient;
use crate::driver::LeavingGuest;
use crate::driver::qemu::inspect::run_state;
use crate::driver::qemu::migration::{self, STEP_LIMIT};
use crate::driver::qemu::source::{
    CommitError, CommittedSource, HandingOver, PausedSource, PreparedSource,
};
use crate::failpoints::{self, Failpoint};
use crate::qmp::Qmp;
use crate::throttle::{GuestThrottle, VcpuThrottled};

/// The guest on the source.
#[derive(Debug)]
pub struct DirectSource {
    qmp: Qmp,
    qmp_path: PathBuf,
    agent: Arc<Mutex<AgentClient>>,
    throttle: GuestThrottle,
    /// What a hand-over was last seen to cost.
    costs: Option<SwitchoverCosts>,
    watch: ProcessWatch,
    /// What a guest is watched for that is to stay when it happens.
    disk_errors: Option<DiskErrors>,
    step: Step,
    /// Whether the guest ran when the switchover began: one that was paused stays so.
    was_running: bool,
    channel: Option<DeviceChannel>,
    relay: Option<Relay>,
}

/// Where QEMU is. A step that fails leaves `Undone`: the guest is as it was before.
#[derive(Debug)]
enum Step {
    Prepared(PreparedSource),
    Paused(PausedSource),
    HandingOver(HandingOver),
    Committed(CommittedSource),
    Undone,
}

impl DirectSource {
    /// The commit: after it the guest cannot run here, and no rollback script can make it.
    fn commit(&mut self, handing: HandingOver) -> Result<(), GuestError> {
        // If we die between QEMU's `completed` and the hand-over, the guest would run nowhere.
        // The target has not been told yet, so it may go on here.
        let left = lock(&self.agent).set_rollback(&self.qmp_path, &handing.rollback_script());
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
        // A script that may still run could start the guest a second time: then it is ours still.
        lock(&self.agent)
            .clear_rollback()
            .map_err(|error| failed("clearing the rollback script", error))
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
    fn attach(&mut self, channel: DeviceChannel) -> StateFlow {
        self.channel = Some(channel);
        StateFlow::Relayed
    }

    fn check(&mut self) -> Result<(), GuestError> {
        failpoints::checked();
        if self.watch.is_alive() {
            return self.throttle.renew();
        }
        Err(GuestError(format!(
            "its QEMU, process {}, has ended",
            self.watch.pid()
        )))
    }

    fn abort_reason(&mut self) -> Option<String> {
        self.disk_errors.as_mut().and_then(DiskErrors::look)
    }

    fn throttler(&mut self) -> Option<&mut dyn Throttler> {
        Some(&mut self.throttle)
    }

    fn switchover_costs(&mut self) -> SwitchoverCosts {
        if let Some(costs) = self.throttle.costs(self.costs) {
            return costs;
        }
        let costs = switchover_costs::measure(&self.qmp);
        self.costs = Some(costs);
        costs
    }

    fn pause(&mut self) -> guest::Result<()> {
        let Step::Prepared(prepared) = std::mem::replace(&mut self.step, Step::Undone) else {
            return Err(GuestError("it was stopped before".into()));
        };
        let channel = self
            .channel
            .take()
            .ok_or_else(|| GuestError("it is not attached".into()))?;
        self.throttle.before_stop();
        let (switching, stream) = prepared
            .begin_switchover()
            .map_err(|error| failed("QEMU's migrate", error))?;
        self.was_running = switching.was_running();
        debug!(was_running = self.was_running, "QEMU switches over");
        self.relay = Some(
            Relay::start(stream, channel, self.was_running)
                .map_err(|error| failed("relaying QEMU's stream", error))?,
        );
        let paused = switching
            .wait_paused(STEP_LIMIT)
            .map_err(|error| failed("stopping it", error))?;
        // Not earlier: a guest at full speed would write more until it stands still.
        self.throttle.release();
        self.step = Step::Paused(paused);
        failpoints::reached(Failpoint::Stopped);
        Ok(())
    }

    fn paused_for(&self) -> Option<Duration> {
        let Step::Paused(paused) = &self.step else {
            return None;
        };
        paused.stopped_ago()
    }

    fn save_devices(&mut self, _: &mut dyn Write) -> guest::Result<()> {
        failpoints::reached(Failpoint::Placed);
        let Step::Paused(paused) = std::mem::replace(&mut self.step, Step::Undone) else {
            return Err(GuestError("it is not stopped".into()));
        };
        let handing = paused
            .continue_device_state()
            .map_err(|error| failed("QEMU's migrate-continue", error))?;
        self.step = Step::HandingOver(handing);
        failpoints::reached(Failpoint::State);
        Ok(())
    }

    fn relinquish(&mut self) -> guest::Result<()> {
        failpoints::reached(Failpoint::Ready);
        match std::mem::replace(&mut self.step, Step::Undone) {
            Step::HandingOver(handing) => {
                self.commit(handing)?;
                info!("QEMU has relinquished the guest");
            }
            other => {
                self.step = other;
                return Err(GuestError("its device state was not sent".into()));
            }
        }
        failpoints::reached(Failpoint::GivenUp);
        Ok(())
    }

    fn resume(&mut self) -> guest::Result<()> {
        info!("the guest goes on in this QEMU");
        let undone = match std::mem::replace(&mut self.step, Step::Undone) {
            Step::Prepared(prepared) => prepared.cancel(),
            Step::Paused(paused) => paused.cancel(),
            Step::HandingOver(handing) => handing.cancel(),
            Step::Committed(handed_over) => handed_over.take_back(),
            Step::Undone => return self.continue_here(),
        };
        undone.map_err(|error| failed("QEMU", error))
    }

    fn finish(&mut self, _: GuestLocation) {
        if let Some(relay) = self.relay.take() {
            relay.end();
        }
        // What follows is tidying up; the guest is where it belongs. A script that is not
        // cleared would do nothing but cancel a migration that is over.
        let _ = lock(&self.agent).clear_rollback();
        let _ = match std::mem::replace(&mut self.step, Step::Undone) {
            Step::Prepared(prepared) => prepared.cancel(),
            Step::Committed(handed_over) => handed_over.finish(),
            _ => Ok(()),
        };
    }
}

impl LeavingGuest for DirectSource {
    fn throttled_by(&self) -> String {
        self.throttle.describe()
    }

    fn throttled(&self) -> Vec<VcpuThrottled> {
        self.throttle.throttled()
    }
}

fn lock(agent: &Mutex<AgentClient>) -> MutexGuard<'_, AgentClient> {
    agent.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(what: &str, error: impl std::fmt::Display) -> GuestError {
    GuestError(format!("{what}: {error}"))
}
