//! The guest's two halves, as the engine sees them.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::guest::{
    DeviceChannel, GuestError, Journal, SourceGuest, StateFlow, TargetGuest, Throttler,
};
use pagelift_engine::migration::GuestLocation;
use pagelift_engine::units::Instant;

use super::agents::SimJournal;
use super::crew;
use super::memory::SimMemory;
use super::plan::Sabotage;
use super::truth::{Mishap, Truth};
use super::writer::Writer;

/// What the target says when it has the device state.
const REPLY: &[u8] = b"loaded";

/// The guest on the source.
#[derive(Debug)]
pub struct SourceHalf {
    pub truth: Arc<Truth>,
    pub writer: Arc<Mutex<Writer>>,
    pub state: Vec<u8>,
    pub stop_takes: Duration,
    pub freeze: Option<Duration>,
    pub channel: Option<DeviceChannel>,
    pub finished: u32,
    pub paused_at: Option<Instant>,
    pub throttled: bool,
    pub sabotage: Option<Sabotage>,
    pub journal: Option<SimJournal>,
}

impl SourceHalf {
    /// A program that was cut off from QEMU gets nothing done there.
    fn reach(&self) -> Result<(), GuestError> {
        self.truth.let_go_if_due();
        match self.truth.is_cut_off() {
            true => Err(GuestError("the monitor is gone".into())),
            false => Ok(()),
        }
    }

    fn channel(&self) -> Result<&DeviceChannel, GuestError> {
        let missing = || GuestError("it was not attached".into());
        self.channel.as_ref().ok_or_else(missing)
    }
}

impl Throttler for SourceHalf {
    fn throttle(&mut self, share: ThrottleShare) -> Result<(), GuestError> {
        if !self.truth.source_runs() && share != ThrottleShare::NONE {
            self.truth
                .broken("a guest that is stopped is throttled".into());
        }
        self.truth.source_throttled(share);
        self.throttled = true;
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if self.truth.source_runs() {
            writer.run_until(self.truth.now());
        }
        writer.set_speed(1.0 - share.as_fraction());
        Ok(())
    }
}

impl SourceGuest for SourceHalf {
    fn attach(&mut self, channel: DeviceChannel) -> StateFlow {
        self.channel = Some(channel);
        StateFlow::Relayed
    }

    fn throttler(&mut self) -> Option<&mut dyn Throttler> {
        Some(self)
    }

    fn pause(&mut self) -> Result<(), GuestError> {
        self.reach()?;
        crew::pass(self.stop_takes);
        self.reach()?;
        if self.truth.strikes(Mishap::Stop) {
            return Err(GuestError("a device does not quiesce".into()));
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.run_until(self.truth.now());
        writer.mark();
        drop(writer);
        self.truth.source_stopped();
        self.paused_at = Some(self.truth.now());
        crew::meanwhile();
        Ok(())
    }

    fn paused_for(&self) -> Option<Duration> {
        self.paused_at.map(|at| self.truth.now().since(at))
    }

    fn save_devices(&mut self, _: &mut dyn Write) -> Result<(), GuestError> {
        self.reach()?;
        let sender = &self.channel()?.state;
        let (first, rest) = self.state.split_at(self.state.len() / 2);
        let lost = |error: std::io::Error| GuestError(format!("its state: {error}"));
        sender.send(first, false).map_err(lost)?;
        crew::meanwhile();
        if self.truth.strikes(Mishap::SaveState) {
            return Err(GuestError("a device has no state".into()));
        }
        sender.send(rest, true).map_err(lost)
    }

    fn relinquish(&mut self) -> Result<(), GuestError> {
        self.reach()?;
        if self.truth.strikes(Mishap::GiveUp) {
            return Err(GuestError("it does not let go".into()));
        }
        let reply: Vec<u8> = self
            .channel()?
            .incoming
            .try_iter()
            .flat_map(|c| c.bytes)
            .collect();
        if reply != REPLY {
            let what = format!("the target's answer came as {reply:?}");
            self.truth.broken(what);
        }
        if self.sabotage == Some(Sabotage::KeepRunning) {
            self.truth.source_resumed();
        }
        self.truth.source_gave_up();
        match self.freeze {
            Some(time) => crew::freeze_source(time),
            None => crew::pass(Duration::from_micros(50)),
        }
        Ok(())
    }

    fn hold_at_most(&mut self, limit: Duration) -> Result<(), GuestError> {
        self.truth.hold(limit)
    }

    fn journal(&mut self) -> Option<&mut dyn Journal> {
        self.journal
            .as_mut()
            .map(|journal| journal as &mut dyn Journal)
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        if self.truth.source_runs() && self.truth.is_cut_off() {
            return Ok(());
        }
        self.truth.hold_no_more();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.sleep_until(self.truth.now());
        self.truth.source_resumed();
        Ok(())
    }

    fn finish(&mut self, _: GuestLocation) {
        self.finished += 1;
    }
}

/// The guest on the target.
#[derive(Debug)]
pub struct TargetHalf {
    pub truth: Arc<Truth>,
    pub here: Arc<SimMemory>,
    pub there: Arc<SimMemory>,
    pub writer: Arc<Mutex<Writer>>,
    /// What must arrive.
    pub expected: Vec<u8>,
    pub arrived: Vec<u8>,
    pub complete: bool,
    /// Calls of `is_loaded` that the loading takes after the last byte.
    pub load_calls: u32,
    /// Pieces of state taken per call.
    pub pieces: usize,
    pub piece_takes: Duration,
    /// When it has loaded what it took.
    pub busy_until: Instant,
    pub channel: Option<DeviceChannel>,
    pub abandoned: bool,
    pub sabotage: Option<Sabotage>,
}

/// The target's guest for a session that outlives its borrow: both are of the crew.
#[derive(Debug)]
pub struct TargetHandle {
    pub half: Weak<Mutex<TargetHalf>>,
    pub journal: Option<SimJournal>,
}

impl TargetHandle {
    fn with<R>(&self, act: impl FnOnce(&mut TargetHalf) -> R) -> R {
        let half = self
            .half
            .upgrade()
            .expect("the world outlives its sessions");
        let mut half = half.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut half)
    }
}

impl TargetGuest for TargetHandle {
    fn attach(&mut self, channel: DeviceChannel) -> Result<StateFlow, GuestError> {
        self.with(|half| half.attach(channel))
    }

    fn load_devices(&mut self, from: &mut dyn Read) -> Result<(), GuestError> {
        self.with(|half| half.load_devices(from))
    }

    fn is_loaded(&mut self) -> Result<bool, GuestError> {
        self.with(TargetHalf::is_loaded)
    }

    fn run(&mut self) -> Result<(), GuestError> {
        self.with(TargetHalf::run)
    }

    fn journal(&mut self) -> Option<&mut dyn Journal> {
        self.journal
            .as_mut()
            .map(|journal| journal as &mut dyn Journal)
    }

    fn finish(&mut self, place: GuestLocation) {
        self.with(|half| half.finish(place));
    }
}

impl TargetGuest for TargetHalf {
    fn attach(&mut self, channel: DeviceChannel) -> Result<StateFlow, GuestError> {
        self.channel = Some(channel);
        Ok(StateFlow::Relayed)
    }

    fn load_devices(&mut self, _: &mut dyn Read) -> Result<(), GuestError> {
        Err(GuestError("it relays its state".into()))
    }

    fn is_loaded(&mut self) -> Result<bool, GuestError> {
        if self.truth.strikes(Mishap::IsLoaded) {
            return Err(GuestError("a device is missing here".into()));
        }
        let channel = self
            .channel
            .as_ref()
            .ok_or_else(|| GuestError("not attached".into()))?;
        if self.truth.now() < self.busy_until {
            return Ok(false);
        }
        if !self.complete {
            let pieces = u32::from(!channel.incoming.is_empty());
            self.busy_until = self.truth.now().after(self.piece_takes * pieces);
            for chunk in channel.incoming.try_iter().take(self.pieces) {
                self.arrived.extend_from_slice(&chunk.bytes);
                self.complete |= chunk.last;
            }
            if !self.complete {
                return Ok(false);
            }
            let lost = |error: std::io::Error| GuestError(format!("its answer: {error}"));
            channel.state.send(REPLY, true).map_err(lost)?;
        }
        if self.sabotage == Some(Sabotage::RunWithoutGrant) {
            self.truth.target_started();
        }
        self.load_calls = self.load_calls.saturating_sub(1);
        Ok(self.load_calls == 0)
    }

    fn run(&mut self) -> Result<(), GuestError> {
        crew::pass(Duration::from_micros(200));
        if self.arrived != self.expected {
            self.truth
                .broken("the device state did not arrive intact".into());
        }
        let differ = self.here.differences(&self.there);
        if !differ.is_empty() {
            let first = differ.next_run(0, 1);
            let what = format!(
                "{} pages differ at the switchover: {first:?}",
                differ.count().0
            );
            self.truth.broken(what);
        }
        if self.truth.strikes(Mishap::Run) {
            return Err(GuestError("its processors do not start".into()));
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.sleep_until(self.truth.now());
        self.truth.target_started();
        Ok(())
    }

    fn finish(&mut self, place: GuestLocation) {
        if place != GuestLocation::Source {
            return;
        }
        self.abandoned = true;
        if self.truth.gave_up() {
            self.truth
                .broken("the target abandoned a guest that was given to it".into());
        }
    }
}
