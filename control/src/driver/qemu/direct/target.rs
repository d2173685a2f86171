//! The target's half of direct mode.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use pagelift_engine::guest::{
    self, DeviceChannel, GuestError, StateFlow, StateSender, TargetGuest,
};
use pagelift_engine::memory::FileMemory;
use pagelift_engine::migration::GuestLocation;
use pagelift_engine::wire::{Fact, StateChunk};

use super::watch::ProcessWatch;
use super::{OpenMemoryError, Preamble, facts, list, open_memory};
use crate::driver::qemu::migration::STEP_LIMIT;
use crate::driver::qemu::return_path::Shut;
use crate::driver::qemu::target::{
    HeldTarget, LoadedTarget, LoadingTarget, RunningTarget, TargetQemu,
};
use crate::driver::qemu::{QemuMigrationError, Refusal, preflight, relay};
use crate::failpoints::{self, Failpoint};
use crate::qmp::{Address, QmpError, Timestamp};

/// Why a QEMU cannot take a guest.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It is not set up for one.
    #[error("this QEMU cannot take a guest:{}", list(.0))]
    Refused(Vec<Refusal>),
    /// QEMU did not do what was asked.
    #[error(transparent)]
    Qemu(#[from] QemuMigrationError),
    /// Its RAM cannot be opened.
    #[error(transparent)]
    Memory(#[from] OpenMemoryError),
    /// It went away.
    #[error("QEMU: {0}")]
    Gone(std::io::Error),
}

impl From<QmpError> for TargetError {
    fn from(error: QmpError) -> Self {
        Self::Qemu(error.into())
    }
}

/// A QEMU that can take a guest, with all that the engine needs.
#[derive(Debug)]
pub struct TargetPrepared {
    /// Its RAM.
    pub memory: Arc<FileMemory>,
    /// The guest-to-be.
    pub guest: DirectTarget,
    /// What must be equal on both sides.
    pub facts: Vec<Fact>,
}

/// The guest on the target.
#[derive(Debug)]
pub struct DirectTarget {
    watch: ProcessWatch,
    held: Option<HeldTarget>,
    loading: Arc<Mutex<Loading>>,
    feeder: Option<JoinHandle<()>>,
    running: Option<RunningTarget>,
}

/// How far the device state is; written by the feeder's thread.
#[derive(Debug)]
enum Loading {
    /// No device state has come. The feeder, once started, has the held target.
    Waiting(Option<HeldTarget>),
    /// QEMU reads the stream.
    Under {
        ours: UnixStream,
    },
    Loaded {
        target: LoadedTarget,
        run: bool,
    },
    Failed(GuestError),
    /// Taken by the engine, to run or to abandon.
    Taken,
}

impl DirectTarget {
    /// Looks at the QEMU, refuses what could not end well, and holds it: a guest that arrives
    /// will not start by itself.
    ///
    /// # Errors
    /// Says why it cannot take a guest, and what would help.
    pub fn prepare(qmp: &Address) -> Result<TargetPrepared, TargetError> {
        let target = TargetQemu::connect(qmp)?;
        let guest = target.guest();
        let refusals = preflight::target(target.qmp(), guest)?;
        if !refusals.is_empty() {
            tracing::info!(?refusals, "QEMU cannot take a guest");
            return Err(TargetError::Refused(refusals));
        }
        let watch = ProcessWatch::new(guest.pid).map_err(TargetError::Gone)?;
        let memory = Arc::new(open_memory(
            &guest.open_ram().map_err(QemuMigrationError::from)?,
        )?);
        let facts = facts(guest);
        let guest = Self {
            watch,
            held: Some(target.hold()?),
            loading: Arc::new(Mutex::new(Loading::Waiting(None))),
            feeder: None,
            running: None,
        };
        Ok(TargetPrepared {
            memory,
            guest,
            facts,
        })
    }

    /// When QEMU let the guest go on.
    pub fn resumed_at(&self) -> Option<Timestamp> {
        self.running.as_ref().and_then(RunningTarget::resumed_at)
    }

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
        let feeder = std::thread::Builder::new().name("pagelift-qemu".into());
        let feeder = feeder.spawn(move || {
            let waker = channel.waker.clone();
            feed(&loading, channel);
            waker.wake();
        });
        self.feeder = Some(feeder.map_err(|error| failed("starting a thread", error))?);
        Ok(StateFlow::Relayed)
    }

    fn load_devices(&mut self, _: &mut dyn Read) -> guest::Result<()> {
        Err(GuestError("QEMU takes its device state by itself".into()))
    }

    fn check(&mut self) -> Result<(), GuestError> {
        if self.watch.is_alive() {
            return Ok(());
        }
        Err(GuestError(format!(
            "its QEMU, process {}, has ended",
            self.watch.pid()
        )))
    }

    fn is_loaded(&mut self) -> Result<bool, GuestError> {
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
                    failed("it is the target's now, but QEMU does not run it", error)
                })?;
                self.running = Some(running);
                failpoints::reached(Failpoint::Running);
                Ok(())
            }
            _ => Err(GuestError("it is not loaded".into())),
        }
    }

    fn finish(&mut self, place: GuestLocation) {
        match place {
            GuestLocation::Source => self.abandon(),
            GuestLocation::Target => self.put_back_settings(),
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
        if let Some(feeder) = self.feeder.take() {
            // It ends with the engine's queue, or with QEMU's stream.
            let _ = feeder.join();
        }
    }
}

/// Feeds QEMU with the device state as it comes, and waits until it is loaded.
fn feed(loading: &Mutex<Loading>, channel: DeviceChannel) {
    let set = |new: Loading| {
        let mut loading = loading.lock().unwrap_or_else(PoisonError::into_inner);
        // What the engine has taken it has abandoned.
        if !matches!(*loading, Loading::Taken) {
            *loading = new;
        }
    };
    let DeviceChannel {
        state,
        incoming,
        waker: _,
    } = channel;
    // Until the first byte comes, QEMU is untouched and could take another guest.
    let Ok(first) = incoming.recv() else { return };
    let held = match &mut *loading.lock().unwrap_or_else(PoisonError::into_inner) {
        Loading::Waiting(held) => held.take(),
        _ => None,
    };
    let Some(held) = held else { return };
    let started = start(held, &first);
    let (target, ours, run) = match started {
        Ok(started) => started,
        Err(error) => return set(Loading::Failed(error)),
    };
    let second = match ours.try_clone() {
        Ok(second) => second,
        Err(error) => return set(Loading::Failed(failed("QEMU's stream", error))),
    };
    set(Loading::Under { ours: second });
    set(match load(target, ours, incoming, state) {
        Ok(target) => Loading::Loaded { target, run },
        Err(error) => Loading::Failed(error),
    });
}

/// Lets QEMU take the stream that `first` opens.
fn start(
    held: HeldTarget,
    first: &StateChunk,
) -> Result<(LoadingTarget, UnixStream, bool), GuestError> {
    let Some(preamble) = Preamble::decode(&first.bytes) else {
        // The first error is the one to tell.
        let _ = held.cancel();
        return Err(GuestError(
            "its device state is not that of a QEMU in direct mode".into(),
        ));
    };
    let (target, ours) = held
        .begin_incoming()
        .map_err(|error| failed("QEMU's migrate-incoming", error))?;
    Ok((target, ours, preamble.run))
}

/// Passes the stream to QEMU and its answers back, until QEMU's verdict.
fn load(
    target: LoadingTarget,
    ours: UnixStream,
    incoming: crossbeam_channel::Receiver<StateChunk>,
    state: StateSender,
) -> Result<LoadedTarget, GuestError> {
    let copied = ours
        .try_clone()
        .map_err(|error| failed("QEMU's stream", error))?;
    let writer = std::thread::Builder::new()
        .name("pagelift-state".into())
        .spawn(move || {
            let mut to_qemu = copied;
            for chunk in incoming {
                if to_qemu.write_all(&chunk.bytes).is_err() {
                    break;
                }
            }
            // The source's end, or QEMU's: the other direction ends too.
            let _ = to_qemu.shutdown(std::net::Shutdown::Both);
        });
    if let Err(error) = writer {
        return Err(failed("starting a thread", error));
    }
    match relay::upstream(ours, AnswerWriter(state)) {
        Ok(Some(Shut { error: 0 })) => target
            .wait_loaded(STEP_LIMIT)
            .map_err(|error| failed("loading it", error)),
        verdict => {
            // QEMU knows why; it is asked, and then ended.
            let reason = match target.wait_loaded(STEP_LIMIT) {
                Err(error) => error.to_string(),
                Ok(_) => format!("QEMU loaded it without saying so ({verdict:?})"),
            };
            Err(GuestError(format!(
                "loading its device state failed: {reason}"
            )))
        }
    }
}

/// The engine's way back for QEMU's answers.
struct AnswerWriter(StateSender);

impl Write for AnswerWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !bytes.is_empty() {
            self.0.send(bytes, false)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn failed(what: &str, error: impl std::fmt::Display) -> GuestError {
    GuestError(format!("{what}: {error}"))
}
