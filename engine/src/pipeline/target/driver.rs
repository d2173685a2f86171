//! The target's coordinator: does what the machine asks for.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use tracing::warn;

use super::fences::Fences;
use crate::guest::{
    DeviceChannel, GuestError, Promise, StateFlow, StateReader, TargetGuest, Waker, state_queue,
};
use crate::memory::{GuestMemory, MemoryError, PageBitmap, PlacedMark};
use crate::migration::{Failure, GuestLocation, MigrationError, Target, TargetStep};
use crate::pipeline::Step;
use crate::pipeline::clock::process_cpu;
use crate::pipeline::control::lost;
use crate::pipeline::digest::digest_memory;
use crate::pipeline::shared::Shared;
use crate::sys::random_number;
use crate::units::Instant;
use crate::wire::{Message, StateChunk};

/// Drives a [`Target`].
pub struct TargetDriver<'a> {
    shared: Arc<Shared<Target>>,
    memory: Arc<dyn GuestMemory>,
    guest: &'a mut dyn TargetGuest,
    digest_threads: usize,
    fences: Arc<Fences>,
    /// Device state for a guest that reads it.
    state: Option<Receiver<StateChunk>>,
    loading: bool,
    /// Marks that are in the memory's files.
    marks: Vec<Box<dyn PlacedMark>>,
}

impl std::fmt::Debug for TargetDriver<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetDriver").finish_non_exhaustive()
    }
}

impl<'a> TargetDriver<'a> {
    /// Drives `shared`; closes `fences` before the guest touches its memory. Also returns where the control reader puts the guest's device state.
    ///
    /// # Errors
    /// When the guest cannot be taken in.
    pub(super) fn new(
        shared: Arc<Shared<Target>>,
        memory: Arc<dyn GuestMemory>,
        guest: &'a mut dyn TargetGuest,
        digest_threads: usize,
        fences: Arc<Fences>,
    ) -> Result<(Self, Sender<StateChunk>), MigrationError> {
        let (state, incoming) = state_queue();
        let wake = Arc::clone(&shared);
        let flow = guest
            .attach(DeviceChannel {
                state: shared.control().state_sender(|_| ()),
                incoming: incoming.clone(),
                waker: Waker::new(move || wake.wake()),
            })
            .map_err(guest_failed)?;
        Ok((
            Self {
                shared,
                memory,
                guest,
                digest_threads,
                fences,
                state: (flow == StateFlow::Written).then_some(incoming),
                loading: false,
                marks: Vec::new(),
            },
            state,
        ))
    }

    /// Does one thing.
    ///
    /// # Errors
    /// When the migration must end; the caller then calls [`fail`](Self::fail).
    pub fn step(&mut self) -> Result<Step, MigrationError> {
        self.guest.check().map_err(guest_failed)?;
        let now = self.shared.now();
        let step = self.shared.try_with(|target| {
            let step = target.handle_time(now).map(|()| target.poll(now));
            let idle = matches!(step, Ok(TargetStep::Wait(_)));
            (step, !idle)
        });
        self.flush()?;
        match step? {
            TargetStep::PlaceMarks(files) => self.place_marks(&files)?,
            TargetStep::TakeMarksBack => {
                for mark in self.marks.drain(..) {
                    mark.take_back()?;
                }
                self.shared.with(Target::marks_taken_back);
            }
            TargetStep::Prepare => {
                self.clear()?;
                let now = self.shared.now();
                self.shared.with(|target| target.prepared(now));
            }
            TargetStep::Digest => {
                self.fences.close()?;
                let digest = digest_memory(&*self.memory, self.digest_threads)?.value();
                let now = self.shared.now();
                self.shared.with(|target| target.digested(now, digest));
            }
            TargetStep::Load => {
                self.fences.close()?;
                match self.state.take() {
                    Some(state) => self.load_devices(state)?,
                    None => self.loading = true,
                }
            }
            TargetStep::Run(granted) => {
                if let Err(error) = self.record(Promise::Granted) {
                    // It is this side's guest all the same.
                    warn!(%error, "the journal does not know that the source gave its word");
                }
                let _ownership = granted.accept();
                self.guest.run().map_err(guest_failed)?;
                // The guest runs, and shows it.
                let _ = self.record(Promise::Running);
                let (now, cpu) = (self.shared.now(), process_cpu());
                self.shared.with(|target| target.running(now, cpu));
            }
            TargetStep::Wait(until) => return self.wait_for_load(until),
            TargetStep::Running => return Ok(Step::Done),
            TargetStep::Failed => {
                let error = self.shared.with(Target::take_failure);
                return Err(error.unwrap_or(MigrationError::Cancelled));
            }
        }
        self.flush()?;
        Ok(Step::Worked)
    }

    /// Has the guest read its device state, which may still be under way.
    fn load_devices(&mut self, state: Receiver<StateChunk>) -> Result<(), MigrationError> {
        let shared = Arc::clone(&self.shared);
        // Meanwhile nobody else notices a source that is gone.
        let mut goes_on = || {
            let now = shared.now();
            if let Err(error) = shared.try_with(|target| (target.handle_time(now), false)) {
                shared.fail(error);
            }
            let _ = shared.flush_messages();
            !shared.look(Target::is_over)
        };
        let mut reader = StateReader::new(state, &mut goes_on);
        let loaded = self.guest.load_devices(&mut reader);
        let loaded = loaded.and_then(|()| {
            let read = reader.finish();
            read.map_err(|error| GuestError::new("its device state", error))
        });
        // What ended the migration matters more than that the state did not come any more.
        if let Some(error) = self.shared.with(Target::take_failure) {
            return Err(error);
        }
        loaded.map_err(guest_failed)?;
        self.record(Promise::Prepared)?;
        let now = self.shared.now();
        self.shared.with(|target| target.loaded(now));
        Ok(())
    }

    /// While the guest loads its state, a wake-up may mean that it is done.
    fn wait_for_load(&mut self, until: Instant) -> Result<Step, MigrationError> {
        if !self.loading || !self.guest.is_loaded().map_err(guest_failed)? {
            return Ok(Step::Wait(until));
        }
        self.loading = false;
        self.record(Promise::Prepared)?;
        let now = self.shared.now();
        self.shared.with(|target| target.loaded(now));
        self.flush()?;
        Ok(Step::Worked)
    }

    /// Records a promise before anybody is told of it.
    fn record(&mut self, promise: Promise) -> Result<(), MigrationError> {
        let session = self.shared.look(Target::session);
        match (self.guest.journal(), session) {
            (Some(journal), Some(session)) => {
                // One that may be there all the same makes no difference: the source's decides.
                let recorded = journal.record(session, promise);
                recorded.map_err(|error| MigrationError::Guest(error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// A lost control connection does not end a migration that is being handed over.
    fn flush(&self) -> Result<(), MigrationError> {
        let Err(error) = self.shared.flush_messages() else {
            return Ok(());
        };
        let now = self.shared.now();
        self.shared
            .with(|target| target.control_failed(now, lost(error)));
        // If that ended the migration, the next step finds out.
        Ok(())
    }

    /// Marks files, and has the source asked whether it sees that.
    fn place_marks(&mut self, files: &[usize]) -> Result<(), MigrationError> {
        let Some(memory) = self.memory.in_files() else {
            return Err(MigrationError::Guest("its memory has no files".into()));
        };
        for file in files {
            // Never zero, which would show everywhere.
            let word = random_number()
                .map_err(|error| MigrationError::Guest(format!("marking its files: {error}")))?;
            let word = word as u64 | 1;
            self.marks.push(memory.place_mark(*file, word)?);
        }
        let marks = self.marks.iter().map(|placed| placed.mark()).collect();
        let now = self.shared.now();
        self.shared.with(|target| target.marks_placed(now, marks));
        Ok(())
    }

    /// Makes all memory read as zero: the source does not send pages that were never populated.
    fn clear(&self) -> Result<(), MemoryError> {
        let mut populated = PageBitmap::new(self.memory.layout().pages());
        self.memory.populated(&mut populated)?;
        for run in populated.runs() {
            self.memory.write_zeros(run)?;
        }
        Ok(())
    }

    /// Ends the migration because of `error`: tells the source, and lets go of the guest unless
    /// it was granted already.
    pub fn fail(&mut self, error: MigrationError) -> Failure {
        // Whatever becomes of the memory, the source writes to it no more.
        if let Err(error) = self.fences.close() {
            warn!(%error, "the memory must not be used again");
        }
        // Before the source hears of it, and perhaps tries again.
        self.marks.clear();
        let guest = self.shared.look(Target::guest_location);
        if guest == GuestLocation::Source {
            // Before the source is told. Unrecorded it would be prepared still, which harms nobody.
            let _ = self.record(Promise::Abandoned);
        }
        if !matches!(
            error,
            MigrationError::PeerAborted { .. } | MigrationError::Refused { .. }
        ) {
            let (code, reason) = (error.abort_code(), error.to_string());
            // The connection may be what failed; the source then finds out by itself.
            let _ = self
                .shared
                .control()
                .write(&Message::Abort { code, reason });
        }
        self.shared
            .with(|target| target.end(MigrationError::Cancelled));
        self.guest.finish(guest);
        Failure { error, guest }
    }

    /// The guest runs here, and nobody asks for it any more.
    pub(super) fn finish(&mut self) {
        self.guest.finish(GuestLocation::Target);
    }
}

fn guest_failed(error: GuestError) -> MigrationError {
    MigrationError::Guest(error.0)
}
