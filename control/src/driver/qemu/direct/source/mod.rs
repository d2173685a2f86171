//! The source's half of direct mode.
//!
//! Invariants: QEMU's step is a value that each call takes and replaces, so that a guest which was
//! handed over cannot be cancelled, nor one be handed over that was never stopped; a throttle is
//! let go of once the guest stands still.

mod arm;
mod inspect;
mod relay;

pub use inspect::InspectedQemuSource;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pagelift_engine::converge::SwitchoverCosts;
use pagelift_engine::guest::{
    self, DeviceChannel, GuestError, Journal, SourceGuest, StateFlow, Throttler,
};
use pagelift_engine::migration::GuestLocation;
use tracing::{debug, info};

use self::relay::Relay;
use super::disk_errors::DiskErrors;
use super::hand_over::{AgentJournal, StopLease, lock};
use super::other_hands::OtherHands;
use super::switchover_costs;
use super::watch::{END_IS_SEEN, ProcessWatch};
use crate::agent_client::AgentClient;
use crate::driver::LeavingGuest;
use crate::driver::qemu::inspect::run_state;
use crate::driver::qemu::migration::{self, STEP_LIMIT};
use crate::driver::qemu::run_state::goes_on;
use crate::driver::qemu::source::{
    CommitError, CommittedSource, HandingOver, PausedSource, PreparedSource,
};
use crate::failpoints::{self, Failpoint};
use crate::qmp::{Address, Qmp};
use crate::throttle::{GuestThrottle, VcpuThrottled};

/// The guest on the source.
#[derive(Debug)]
pub struct DirectSource {
    qmp: Qmp,
    qmp_path: PathBuf,
    agent: Arc<Mutex<AgentClient>>,
    journal: AgentJournal,
    stop_lease: StopLease,
    throttle: GuestThrottle,
    /// What a hand-over was last seen to cost.
    costs: Option<SwitchoverCosts>,
    watch: ProcessWatch,
    /// What a guest is watched for that is to stay when it happens.
    disk_errors: Option<DiskErrors>,
    /// Watched for until a migration of our own begins.
    other_hands: Option<OtherHands>,
    step: Step,
    /// Whether the guest ran when the switchover began: one that was paused stays so.
    was_running: bool,
    channel: Option<DeviceChannel>,
    relay: Option<Relay>,
    /// Files of persistent memory that must have reached their storage before the guest goes on
    /// elsewhere.
    remote: Vec<File>,
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
    /// The commit: after it QEMU does not run the guest unless it is told to. The rollback script tells
    /// it, until the journal has it that the guest is handed over.
    fn commit(&mut self, handing: HandingOver) -> Result<(), GuestError> {
        // If we die between QEMU's `completed` and the hand-over, the guest would run nowhere.
        // The target has not been told yet, so it may go on here.
        let left = lock(&self.agent).set_rollback(&self.qmp_path, &handing.rollback_script());
        if let Err(error) = left {
            self.step = Step::HandingOver(handing);
            return Err(failed("preparing the commit", error));
        }
        match handing.commit() {
            Ok(handed_over) => {
                self.step = Step::Committed(handed_over);
                Ok(())
            }
            Err(CommitError::Kept(failure)) => Err(failed("the commit", failure)),
            // Not told the target, it stays with us; `resume` finds out what QEMU does.
            Err(error @ CommitError::Unknown(_)) => Err(failed("the commit", error)),
        }
    }

    /// The guest could not be made to go on because of `error`. If this process was cut off from
    /// QEMU, the agent has done it, or will when this process leaves it.
    fn resumed_by_agent(&mut self, error: GuestError) -> Result<(), GuestError> {
        // The kernel says a little later than QEMU's monitor that QEMU has ended.
        if self.watch.ends_within(END_IS_SEEN) {
            return Err(error);
        }
        debug!(%error, "the agent is to let the guest go on");
        let undone = lock(&self.agent).let_undo();
        undone.map_err(|agent| failed(&format!("{error}; and by the agent"), agent))?;
        self.qmp = Qmp::connect(&Address::Unix(self.qmp_path.clone()))
            .map_err(|qmp| failed(&format!("{error}; and asking QEMU"), qmp))?;
        let state = run_state(&self.qmp).map_err(|qmp| failed("asking QEMU", qmp))?;
        if goes_on(&state) || !self.was_running {
            return Ok(());
        }
        Err(failed(&format!("its state is {state:?}"), error))
    }

    /// Makes a guest go on of which it is not known whether QEMU had given it up; the target was
    /// never told.
    fn continue_here(&self) -> Result<(), GuestError> {
        if !self.was_running {
            return Ok(());
        }
        let state = run_state(&self.qmp).map_err(|error| failed("asking QEMU", error))?;
        if goes_on(&state) {
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
        let disk = self.disk_errors.as_mut().and_then(DiskErrors::look);
        disk.or_else(|| match &self.step {
            Step::Prepared(_) => self.other_hands.as_ref()?.look(),
            Step::Paused(paused) => paused.ended().map(|error| error.to_string()),
            Step::HandingOver(handing) => handing.ended().map(|error| error.to_string()),
            Step::Committed(_) | Step::Undone => None,
        })
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
        self.arm()?;
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
        for file in &self.remote {
            file.sync_all()
                .map_err(|error| failed("writing its persistent memory back", error))?;
        }
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
        failpoints::reached(Failpoint::Committed);
        Ok(())
    }

    fn resume(&mut self) -> guest::Result<()> {
        info!("the guest goes on in this QEMU");
        let undone = match std::mem::replace(&mut self.step, Step::Undone) {
            Step::Prepared(prepared) => prepared.cancel(),
            Step::Paused(paused) => paused.cancel(),
            Step::HandingOver(handing) => handing.cancel(),
            Step::Committed(handed_over) => handed_over.take_back(),
            Step::Undone => {
                return self
                    .continue_here()
                    .or_else(|error| self.resumed_by_agent(error));
            }
        };
        undone
            .map_err(|error| failed("QEMU", error))
            .or_else(|error| self.resumed_by_agent(error))
    }

    fn hold_at_most(&mut self, limit: Duration) -> guest::Result<()> {
        self.arm()?;
        let held = self.stop_lease.extend(&self.agent, limit);
        held.map_err(|error| failed("holding the guest still", error))
    }

    fn journal(&mut self) -> Option<&mut dyn Journal> {
        Some(&mut self.journal)
    }

    fn finish(&mut self, _: GuestLocation) {
        if let Some(relay) = self.relay.take() {
            relay.end();
        }
        // What follows is tidying up; the guest is where it belongs. A script that is not
        // cleared would do nothing but cancel a migration that is over.
        let step = std::mem::replace(&mut self.step, Step::Undone);
        if let Step::Committed(handed_over) = step {
            // The agent has kept how to do that, should this process end here.
            let _ = handed_over.finish();
            let _ = lock(&self.agent).clear_rollback();
            return;
        }
        let _ = lock(&self.agent).clear_rollback();
        if let Step::Prepared(prepared) = step {
            let _ = prepared.cancel();
        }
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

fn failed(what: &str, error: impl std::fmt::Display) -> GuestError {
    GuestError(format!("{what}: {error}"))
}
