//! The target's half of direct mode.

mod feed;
mod inspect;

pub use inspect::InspectedQemuTarget;

use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use pagelift_engine::guest::{self, DeviceChannel, GuestError, Journal, StateFlow, TargetGuest};
use pagelift_engine::migration::GuestLocation;
use tracing::warn;

use self::feed::{Loading, feed};
use super::hand_over::AgentJournal;
use super::watch::ProcessWatch;
use crate::driver::qemu::target::{HeldTarget, RunningTarget};
use crate::failpoints::{self, Failpoint};

/// The guest on the target.
#[derive(Debug)]
pub struct DirectTarget {
    watch: ProcessWatch,
    held: Option<HeldTarget>,
    loading: Arc<Mutex<Loading>>,
    feeder: Option<JoinHandle<()>>,
    /// Tells the feeder that all memory is here; `None` once told.
    memory_is_complete: Option<Sender<()>>,
    running: Option<RunningTarget>,
    /// Where promises are kept, if QEMU has an agent.
    journal: Option<AgentJournal>,
    /// Files that persistent memory was copied into.
    copied: Vec<File>,
}

impl DirectTarget {
    fn take_loading(&self) -> Loading {
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *loading, Loading::Taken)
    }
}

impl TargetGuest for DirectTarget {
    fn attach(&mut self, channel: DeviceChannel) -> guest::Result<StateFlow> {
        *self.loading.lock().unwrap_or_else(PoisonError::into_inner) =
            Loading::Waiting(self.held.take());
        let loading = Arc::clone(&self.loading);
        let journal = self.journal.clone();
        let feeder = std::thread::Builder::new().name("pagelift-qemu".into());
        let (complete, is_complete) = bounded(1);
        self.memory_is_complete = Some(complete);
        let feeder = feeder.spawn(move || feed(&loading, channel, journal.as_ref(), &is_complete));
        self.feeder = Some(feeder.map_err(|error| GuestError::new("starting a thread", error))?);
        Ok(StateFlow::Relayed)
    }

    fn load_devices(&mut self, _: &mut dyn Read) -> guest::Result<()> {
        Err(GuestError("QEMU takes its device state by itself".into()))
    }

    fn check(&mut self) -> Result<(), GuestError> {
        if !self.watch.is_alive() {
            return Err(GuestError(format!(
                "its QEMU, process {}, has ended",
                self.watch.pid()
            )));
        }
        // Device state comes before the last pages: what fails is not to wait for these.
        match &*self.loading.lock().unwrap_or_else(PoisonError::into_inner) {
            Loading::Failed(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn is_loaded(&mut self) -> Result<bool, GuestError> {
        // Nobody asks before all memory is here.
        if let Some(complete) = self.memory_is_complete.take() {
            // There is room for it, and a feeder that has ended has said why.
            let _ = complete.send(());
        }
        match &*self.loading.lock().unwrap_or_else(PoisonError::into_inner) {
            Loading::Loaded { .. } => {
                failpoints::reached(Failpoint::Loaded);
                Ok(true)
            }
            Loading::Failed(error) => Err(error.clone()),
            _ => Ok(false),
        }
    }

    fn run(&mut self) -> guest::Result<()> {
        failpoints::reached(Failpoint::Granted);
        match self.take_loading() {
            Loading::Loaded { target, run } => {
                let running = target.run(!run).map_err(|error| {
                    GuestError::new("it is the target's now, but QEMU does not run it", error)
                })?;
                self.running = Some(running);
                failpoints::reached(Failpoint::Running);
                Ok(())
            }
            _ => Err(GuestError("it is not loaded".into())),
        }
    }

    fn journal(&mut self) -> Option<&mut dyn Journal> {
        self.journal
            .as_mut()
            .map(|journal| journal as &mut dyn Journal)
    }

    fn finish(&mut self, place: GuestLocation) {
        match place {
            GuestLocation::Source => self.abandon(),
            GuestLocation::Target => {
                self.put_back_settings();
                self.clear_rollback();
                self.sync_copied();
            }
            // The agent puts QEMU's settings back when this process has ended.
            GuestLocation::Unknown => {}
        }
    }
}

impl DirectTarget {
    /// Puts QEMU's settings back, after the guest has gone on.
    fn put_back_settings(&mut self) {
        if let Some(running) = self.running.take() {
            // The guest is not concerned.
            let _ = running.finish();
        }
    }

    fn clear_rollback(&self) {
        if let Some(journal) = &self.journal {
            journal.clear_rollback();
        }
    }

    /// Has what was copied of persistent memory reach its storage, while the guest runs.
    fn sync_copied(&self) {
        for file in &self.copied {
            if let Err(error) = file.sync_all() {
                warn!(%error, "persistent memory that was copied may not have reached its storage");
            }
        }
    }

    fn abandon(&self) {
        // What fails here leaves a QEMU that will not run the guest by itself either.
        match self.take_loading() {
            Loading::Waiting(Some(held)) => drop(held.cancel()),
            Loading::Loaded { target, .. } => drop(target.abandon()),
            // The feeder's thread sees the end of the stream and ends QEMU.
            Loading::Under { ours } => drop(ours.shutdown(std::net::Shutdown::Both)),
            Loading::Waiting(None) | Loading::Failed(_) | Loading::Taken => {}
        }
    }
}

impl Drop for DirectTarget {
    fn drop(&mut self) {
        self.memory_is_complete = None;
        if let Some(feeder) = self.feeder.take() {
            // It ends with the engine's queue, or with QEMU's stream.
            let _ = feeder.join();
        }
    }
}
