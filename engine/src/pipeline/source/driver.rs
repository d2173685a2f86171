//! The source's coordinator: does what the machine asks for, and puts everything back when the
//! migration fails.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use tracing::warn;

use super::throttle::Throttle;
use crate::converge::ThrottleShare;
use crate::dirty::{DirtyError, DirtySource};
use crate::guest::{
    DeviceChannel, GuestError, Promise, RecordError, SourceGuest, StateFlow, StateSender,
    StateWriter, Waker, state_queue,
};
use crate::memory::{Mark, PageBitmap, ReadPages};
use crate::migration::{
    Failure, GuestLocation, MigrationError, Ownership, Source, SourceStep, StoppedOwnership,
};
use crate::pipeline::Step;
use crate::pipeline::cancel::CancelToken;
use crate::pipeline::control::lost;
use crate::pipeline::digest::digest_memory_unless;
use crate::pipeline::disconnect_grace::DisconnectGrace;
use crate::pipeline::shared::Shared;
use crate::units::Instant;
use crate::wire::{Message, StateChunk};

/// What this side owns of the guest.
#[derive(Debug)]
enum Owned {
    Running(Ownership),
    Stopped(StoppedOwnership),
    /// Nothing: it was handed over.
    Nothing,
}

/// Drives a [`Source`].
pub struct SourceDriver<'a> {
    shared: Arc<Shared<Source>>,
    memory: Arc<dyn ReadPages>,
    dirty: &'a mut dyn DirtySource,
    guest: &'a mut dyn SourceGuest,
    digest_threads: usize,
    owned: Owned,
    harvest: PageBitmap,
    armed: bool,
    throttled: bool,
    /// The loss of the control connection, if a message could not be sent.
    grace: DisconnectGrace,
    throttle: Throttle,
    cancel: CancelToken,
    /// How the device state goes, and where to.
    flow: StateFlow,
    state: StateSender,
}

impl std::fmt::Debug for SourceDriver<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceDriver")
            .field("owned", &self.owned)
            .finish_non_exhaustive()
    }
}

impl<'a> SourceDriver<'a> {
    /// Drives `shared` for a guest that is owned here. Also returns where the control
    /// reader puts the target's answers to the device state.
    pub fn new(
        shared: Arc<Shared<Source>>,
        memory: Arc<dyn ReadPages>,
        dirty: &'a mut dyn DirtySource,
        guest: &'a mut dyn SourceGuest,
        ownership: Ownership,
        digest_threads: usize,
        cancel: CancelToken,
    ) -> (Self, Sender<StateChunk>) {
        let (replies, incoming) = state_queue();
        let (count, wake) = (Arc::clone(&shared), Arc::clone(&shared));
        let state = shared
            .control()
            .state_sender(move |bytes| count.with(|source| source.count_state_bytes(bytes)));
        let flow = guest.attach(DeviceChannel {
            state: state.clone(),
            incoming,
            waker: Waker::new(move || wake.wake()),
        });
        let harvest = PageBitmap::new(memory.layout().pages());
        let owned = Owned::Running(ownership);
        (
            Self {
                shared,
                memory,
                dirty,
                guest,
                digest_threads,
                owned,
                harvest,
                armed: false,
                throttled: false,
                grace: DisconnectGrace::default(),
                throttle: Throttle::default(),
                cancel,
                flow,
                state,
            },
            replies,
        )
    }

    /// Does one thing.
    ///
    /// # Errors
    /// When the migration must end; the caller then calls [`fail`](Self::fail).
    pub fn step(&mut self) -> Result<Step, MigrationError> {
        if !self.shared.look(Source::is_over)
            && let Some(waits) = self.grace.step(self.shared.now(), false)
        {
            return waits;
        }
        if !self.shared.look(Source::has_handed_over) {
            self.guest.check().map_err(guest_ended)?;
            if let Some(reason) = self.guest.abort_reason() {
                return Err(MigrationError::GuestStays(reason));
            }
        }
        let now = self.shared.now();
        if let Some(end) = self.shared.look(Source::standstill_ends) {
            let left = end.since(now);
            self.guest.hold_at_most(left).map_err(guest_failed)?;
        }
        let step = self.shared.try_with(|source| {
            let step = source.handle_time(now).map(|()| source.poll(now));
            let idle = matches!(step, Ok(SourceStep::Wait(_)));
            (step, !idle)
        });
        let sent = self.shared.flush_messages();
        let ended = matches!(step, Ok(SourceStep::Completed | SourceStep::Failed));
        if let Err(error) = sent
            && !ended
        {
            return self.control_lost(lost(error));
        }
        match step? {
            SourceStep::LookForMarks(marks) => {
                let shows = self.find_mark(&marks)?;
                let now = self.shared.now();
                self.shared
                    .with(|source| source.marks_looked_for(now, shows));
            }
            SourceStep::Arm => self.arm()?,
            SourceStep::Harvest => {
                self.take_dirty()?;
                let now = self.shared.now();
                self.sample_vcpus(now, true)?;
                let (effect, response) = (self.throttle.effect(), self.throttle.response());
                let dirty = &self.harvest;
                self.shared.with(|source| {
                    source.throttle_had(effect, response);
                    source.harvested(now, dirty)
                })?;
            }
            SourceStep::HarvestWithin => {
                self.take_dirty()?;
                let now = self.shared.now();
                self.sample_vcpus(now, false)?;
                let dirty = &self.harvest;
                // Nobody waits for that.
                self.shared
                    .try_with(|source| (source.harvested_within(now, dirty), false));
            }
            SourceStep::Throttle(share) => {
                self.throttled = true;
                let most = self.shared.look(Source::throttle_most);
                let applied = self.throttle.want(share, most, self.guest);
                applied.map_err(guest_failed)?;
                self.calibrate();
            }
            SourceStep::StopGuest => self.pause()?,
            SourceStep::Digest => {
                let is_cancelled = || self.cancel.is_cancelled();
                let digest =
                    digest_memory_unless(&*self.memory, self.digest_threads, &is_cancelled)?;
                let digest = digest.ok_or(MigrationError::Cancelled)?.value();
                let now = self.shared.now();
                self.shared.with(|source| source.digested(now, digest))?;
            }
            SourceStep::SaveState => {
                self.save_devices()?;
                self.shared.with(Source::state_sent);
            }
            SourceStep::HandOver(ready) => {
                self.guest.relinquish().map_err(guest_failed)?;
                let owned = std::mem::replace(&mut self.owned, Owned::Nothing);
                let Owned::Stopped(stopped) = owned else {
                    self.owned = owned;
                    return Err(MigrationError::Guest(
                        "it is not stopped at the hand-over".into(),
                    ));
                };
                // To relinquish a guest takes QEMU a while, in which the migration may end. If it
                // does after the promise, the target is asked.
                let now = self.shared.now();
                let promised = match self.shared.look(|source| source.keeps_guest(now)) {
                    true => Ok(false),
                    false => self.record(Promise::HandedOver),
                };
                let promised = match promised {
                    Ok(promised) => promised,
                    Err(error @ RecordError::Refused(_)) => {
                        self.owned = Owned::Stopped(stopped);
                        return Err(not_recorded(error));
                    }
                    Err(RecordError::Unknown(error)) => {
                        self.shared
                            .with(|source| source.may_be_promised(stopped, ready));
                        return Err(MigrationError::PromiseUnknown(error.0));
                    }
                };
                let now = self.shared.now();
                let kept = self.shared.with(|source| match promised {
                    true => {
                        source.promised(now, stopped, ready);
                        Ok(())
                    }
                    false => source.relinquished(now, stopped, ready),
                });
                if let Err(stopped) = kept {
                    self.owned = Owned::Stopped(stopped);
                }
            }
            SourceStep::Wait(until) => {
                let now = self.shared.now();
                let sampled = self.throttle.sample_if_due(now, self.guest, self.dirty);
                let next = sampled.map_err(guest_failed)?.unwrap_or(until);
                return Ok(Step::Wait(until.min(next)));
            }
            SourceStep::Completed => {
                // The guest runs there, whatever becomes of the record.
                let _ = self.record(Promise::Released);
                self.dirty.disarm();
                self.guest.finish(GuestLocation::Target);
                return Ok(Step::Done);
            }
            SourceStep::Failed => {
                let error = self.shared.with(Source::take_failure);
                return Err(error.unwrap_or(MigrationError::Cancelled));
            }
        }
        match self.shared.flush_messages() {
            Ok(()) => Ok(Step::Worked),
            Err(error) => self.control_lost(lost(error)),
        }
    }

    /// A message could not be sent. Why the target has closed the connection may still be there to
    /// be read; after the hand-over it is asked anyway.
    fn control_lost(&mut self, error: MigrationError) -> Result<Step, MigrationError> {
        match self.shared.look(Source::has_handed_over) {
            true => Err(error),
            false => Ok(self.grace.lost(self.shared.now(), error)),
        }
    }

    /// Records a promise before anybody is told of it; whether there is a journal.
    fn record(&mut self, promise: Promise) -> Result<bool, RecordError> {
        let session = self.shared.look(Source::session);
        let Some(journal) = self.guest.journal() else {
            return Ok(false);
        };
        journal.record(session, promise)?;
        Ok(true)
    }

    /// Asks the guest what its stop would cost.
    fn calibrate(&mut self) {
        let costs = self.guest.switchover_costs();
        self.shared
            .with(|source| source.set_switchover_costs(costs));
    }

    /// The first of `marks` that is in the guest's files.
    fn find_mark(&self, marks: &[Mark]) -> Result<Option<u16>, MigrationError> {
        let Some(memory) = self.memory.in_files() else {
            return Ok(None);
        };
        for (number, mark) in (0..).zip(marks) {
            if memory.shows(*mark)? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    fn arm(&mut self) -> Result<(), MigrationError> {
        self.record(Promise::Moving).map_err(not_recorded)?;
        self.calibrate();
        self.dirty.arm()?;
        self.armed = true;
        // After arming: a page that is populated later is also reported as written.
        self.harvest.clear();
        self.memory.populated(&mut self.harvest)?;
        self.dirty.note_populated(&self.harvest)?;
        self.try_harvest()?;
        let now = self.shared.now();
        self.sample_vcpus(now, true)?;
        let populated = &self.harvest;
        self.shared.with(|source| source.armed(now, populated));
        Ok(())
    }

    /// A harvest before the first page is sent: what a downtime has to have room for beside its pages
    /// is known from the beginning, and said if it is much. What it finds goes with the first round.
    fn try_harvest(&mut self) -> Result<(), MigrationError> {
        let took = self.timed_harvest(|dirty, into| dirty.harvest(into))?;
        let limit = self.shared.look(|source| source.downtime_allowed());
        if took * 2 > limit {
            warn!(
                harvest_ms = took.as_secs_f64() * 1e3,
                downtime_allowed_ms = limit.as_secs_f64() * 1e3,
                "finding what the guest writes takes much of the downtime allowed, however little it \
                 writes; more scan threads, huge pages or a longer downtime would help"
            );
        }
        Ok(())
    }

    /// The dirty log was harvested, or tracking began.
    fn sample_vcpus(&mut self, now: Instant, round_ended: bool) -> Result<(), MigrationError> {
        let sampled = self
            .throttle
            .sample(now, round_ended, self.guest, self.dirty);
        sampled.map_err(guest_failed)
    }

    fn take_dirty(&mut self) -> Result<(), MigrationError> {
        self.harvest.clear();
        let result = self.timed_harvest(|dirty, into| dirty.harvest(into));
        self.keep_of_failed(result)
    }

    /// What was written last, by a guest that stands still since `since`: channels send what has been
    /// found while the rest is looked for.
    fn take_last_dirty(&mut self, since: Instant) -> Result<(), MigrationError> {
        self.harvest.clear();
        let shared = Arc::clone(&self.shared);
        let mut part = |found: &PageBitmap| {
            let now = shared.now();
            shared.with(|source| source.stopped_in_part(since, now, found));
        };
        let result = self.timed_harvest(|dirty, into| dirty.harvest_in_parts(into, &mut part));
        self.keep_of_failed(result)
    }

    /// What a harvest that failed had found by then is not lost.
    fn keep_of_failed(
        &mut self,
        result: Result<Duration, MigrationError>,
    ) -> Result<(), MigrationError> {
        if result.is_err() {
            let part = &self.harvest;
            self.shared.with(|source| source.harvest_failed(part));
        }
        result.map(|_| ())
    }

    /// Adds what was written to `harvest`, as `how` does; how long that took.
    fn timed_harvest(
        &mut self,
        how: impl FnOnce(&mut dyn DirtySource, &mut PageBitmap) -> Result<(), DirtyError>,
    ) -> Result<Duration, MigrationError> {
        let began = self.shared.now();
        let result = how(self.dirty, &mut self.harvest);
        let took = self.shared.now().since(began);
        // Nobody waits for that.
        self.shared
            .try_with(|source| (source.harvest_took(took), false));
        result?;
        Ok(took)
    }

    fn pause(&mut self) -> Result<(), MigrationError> {
        let asked = self.shared.now();
        let limit = self.shared.look(Source::longest_standstill);
        self.guest.hold_at_most(limit).map_err(guest_failed)?;
        self.guest.pause().map_err(guest_failed)?;
        let since = self.guest.paused_for().map_or(asked, |time| {
            let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            Instant(self.shared.now().0.saturating_sub(time))
        });
        self.throttle.stopped();
        self.owned = match std::mem::replace(&mut self.owned, Owned::Nothing) {
            Owned::Running(ownership) => Owned::Stopped(ownership.stop()),
            other => other,
        };
        self.take_last_dirty(since)?;
        let (now, dirty) = (self.shared.now(), &self.harvest);
        self.shared.with(|source| source.stopped(since, now, dirty));
        Ok(())
    }

    fn save_devices(&mut self) -> Result<(), MigrationError> {
        match self.flow {
            StateFlow::Relayed => {
                let mut nowhere: &mut [u8] = &mut [];
                self.guest.save_devices(&mut nowhere).map_err(guest_failed)
            }
            StateFlow::Written => {
                let mut out = StateWriter::new(self.state.clone());
                self.guest.save_devices(&mut out).map_err(guest_failed)?;
                out.finish().map_err(lost)
            }
        }
    }

    /// Ends the migration because of `error`: tells the target, lets the guest go on here if it
    /// is still here, gives back what was not delivered and stops tracking.
    pub fn fail(&mut self, error: MigrationError) -> Failure {
        if std::mem::take(&mut self.throttled)
            && let Some(throttler) = self.guest.throttler()
        {
            // If this fails the guest's own lease ends it.
            let _ = throttler.throttle(ThrottleShare::NONE);
        }
        let peer_knows = matches!(
            error,
            MigrationError::PeerAborted { .. } | MigrationError::Refused { .. }
        );
        let handed_over = self.shared.look(Source::has_handed_over);
        let mut failure = Failure {
            error,
            guest: self.shared.look(Source::guest_location),
        };
        // First the guest, then the news: telling the target may have to wait for a dead link.
        // A target that was not granted the guest cannot run it.
        if !handed_over {
            self.take_back(&mut failure);
            if self.armed {
                // Nothing was promised, so that nothing depends on this record.
                let _ = self.record(Promise::Kept);
            }
        }
        if self.armed {
            self.harvest.clear();
            self.shared
                .look(|source| source.undelivered(&mut self.harvest));
            self.dirty.give_back(&self.harvest);
            self.dirty.disarm();
        }
        if !handed_over {
            self.cancel.freed();
        }
        if !peer_knows && !handed_over {
            let code = failure.error.abort_code();
            let reason = failure.error.to_string();
            // The connection may be what failed; the target then finds out by itself.
            let _ = self
                .shared
                .control()
                .write(&Message::Abort { code, reason });
        }
        self.shared.fail(MigrationError::Cancelled);
        self.guest.finish(failure.guest);
        failure
    }

    /// The guest goes on here.
    fn take_back(&mut self, failure: &mut Failure) {
        failure.guest = GuestLocation::Source;
        self.owned = match std::mem::replace(&mut self.owned, Owned::Nothing) {
            Owned::Stopped(stopped) => {
                let ownership = stopped.resume();
                if let Err(error) = self.guest.resume() {
                    let why = &failure.error;
                    failure.error = MigrationError::Guest(format!(
                        "after the migration failed ({why}), it could not be resumed here: {error}"
                    ));
                }
                Owned::Running(ownership)
            }
            other => other,
        };
        // Whatever failed first, this is what matters.
        if let Err(error) = self.guest.check() {
            failure.error = guest_ended(error);
        }
    }
}

fn guest_ended(error: GuestError) -> MigrationError {
    MigrationError::GuestEnded(error.0)
}

fn guest_failed(error: GuestError) -> MigrationError {
    MigrationError::Guest(error.0)
}

/// Nothing hangs on the record: that it may be there all the same makes no difference.
fn not_recorded(error: RecordError) -> MigrationError {
    MigrationError::Guest(error.to_string())
}
