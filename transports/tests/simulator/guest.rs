//! The guest's two halves, as the engine sees them.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::guest::{
    DeviceChannel, GuestError, Journal, SourceGuest, StateFlow, Throttler,
};
use pagelift_engine::migration::GuestLocation;
use pagelift_engine::units::Instant;

use super::agents::SimJournal;
use super::crew;
use super::plan::Sabotage;
use super::truth::{Mishap, Truth};
use super::writer::Writer;

/// What the target says when it has the device state.
pub const REPLY: &[u8] = b"loaded";

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

impl SourceHalf {
    /// What others have done on the same QEMU before our own migration.
    fn other_hands(&self) -> Option<String> {
        let seen = self.truth.strikes(Mishap::OtherHands);
        seen.then(|| {
            self.truth.reach("stays because of other hands");
            "somebody else migrates it".into()
        })
    }

    /// What QEMU does not do any more whose migration was cancelled by hand.
    fn is_ours(&self) -> Result<(), GuestError> {
        match self.truth.is_cancelled_by_hand() {
            true => Err(GuestError("its migration is cancelled".into())),
            false => Ok(()),
        }
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

    fn abort_reason(&mut self) -> Option<String> {
        if self.truth.is_cancelled_by_hand() {
            return Some("its migration was cancelled".into());
        }
        self.paused_at.is_none().then(|| self.other_hands())?
    }

    fn pause(&mut self) -> Result<(), GuestError> {
        self.reach()?;
        if let Some(words) = self.other_hands() {
            return Err(GuestError(words));
        }
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
        self.is_ours()?;
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
        // QEMU takes its time to commit, in which it may be cancelled by hand.
        crew::pass(Duration::from_micros(100));
        self.is_ours()?;
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
        if self.truth.source_runs()
            && (self.truth.is_cut_off() || self.truth.is_cancelled_by_hand())
        {
            self.truth.hold_no_more();
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
