//! The guest's half on the target, as the engine sees it.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use pagelift_engine::guest::{DeviceChannel, GuestError, Journal, StateFlow, TargetGuest};
use pagelift_engine::migration::GuestLocation;
use pagelift_engine::units::Instant;

use super::agents::SimJournal;
use super::crew;
use super::forger::Forger;
use super::guest::REPLY;
use super::memory::SimMemory;
use super::plan::Sabotage;
use super::truth::{Mishap, Truth};
use super::writer::Writer;

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
    pub verify: bool,
    pub one_sided: bool,
    pub forger: Arc<Forger>,
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
                self.truth.target_loads();
                self.arrived.extend_from_slice(&chunk.bytes);
                self.complete |= chunk.last;
            }
            if !self.complete {
                return Ok(false);
            }
            if self.truth.starts_by_itself() {
                self.truth.reach("started by itself, and was ended");
                self.truth.target_ends();
                return Err(GuestError("it started by itself".into()));
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
        // No digest covers the device state.
        if self.arrived != self.expected && !self.forger.has_changed() {
            self.truth
                .broken("the device state did not arrive intact".into());
        }
        let differ = self.here.differences(&self.there);
        // Pages that are written from one side come when the frames before are believed to be placed.
        let is_misled = match self.one_sided {
            true => self.forger.was_believed(),
            false => self.forger.has_changed(),
        };
        let is_misled = is_misled && !self.verify;
        if !differ.is_empty() && !is_misled {
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
        if self.truth.has_target_loaded() {
            self.truth.target_ends();
        }
        if self.truth.gave_up() {
            self.truth
                .broken("the target abandoned a guest that was given to it".into());
        }
    }
}
