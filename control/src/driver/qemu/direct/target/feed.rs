//! Passing the device state on to the target's QEMU, as it comes, until QEMU has loaded it.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::Receiver;
use pagelift_engine::guest::{DeviceChannel, GuestError, StateSender};
use pagelift_engine::wire::StateChunk;
use tracing::warn;

use crate::driver::qemu::direct::hand_over::AgentJournal;
use crate::driver::qemu::direct::preamble::Preamble;
use crate::driver::qemu::migration::STEP_LIMIT;
use crate::driver::qemu::relay;
use crate::driver::qemu::return_path::Shut;
use crate::driver::qemu::target::{HeldTarget, LoadedTarget, LoadingTarget};

/// How far the device state is; written by [`feed`]'s thread.
#[derive(Debug)]
pub(super) enum Loading {
    /// No device state has come.
    Waiting(Option<HeldTarget>),
    /// QEMU reads the stream.
    Under { ours: UnixStream },
    /// QEMU has the whole guest, stopped.
    Loaded { target: LoadedTarget, run: bool },
    /// It was not loaded.
    Failed(GuestError),
    /// Taken by the engine, to run or to abandon.
    Taken,
}

/// Feeds QEMU with the device state as it comes, and waits until it is loaded. When that fails,
/// the reason is kept for the engine, which is woken to hear it; what still comes is thrown away, for a
/// queue that nobody empties would be the reason that is told.
pub(super) fn feed(
    loading: &Mutex<Loading>,
    channel: DeviceChannel,
    journal: Option<&AgentJournal>,
) {
    let DeviceChannel {
        state,
        incoming,
        waker,
    } = channel;
    let rest = incoming.clone();
    let outcome = feed_qemu(loading, incoming, state, journal);
    let has_failed = matches!(outcome, Some(Loading::Failed(_)));
    if let Some(outcome) = outcome {
        set(loading, outcome);
    }
    waker.wake();
    if has_failed {
        rest.into_iter().for_each(drop);
    }
}

/// What came of it; `None` when no device state came.
fn feed_qemu(
    loading: &Mutex<Loading>,
    incoming: Receiver<StateChunk>,
    state: StateSender,
    journal: Option<&AgentJournal>,
) -> Option<Loading> {
    // Until the first byte comes, QEMU is untouched and could take another guest.
    let first = incoming.recv().ok()?;
    let held = match &mut *loading.lock().unwrap_or_else(PoisonError::into_inner) {
        Loading::Waiting(held) => held.take(),
        _ => None,
    }?;
    let (target, ours, run) = match start(held, &first, journal) {
        Ok(started) => started,
        Err(error) => return Some(Loading::Failed(error)),
    };
    let copies = ours
        .try_clone()
        .and_then(|second| Ok((second, ours.try_clone()?)));
    let (to_end, to_qemu) = match copies {
        Ok(copies) => copies,
        Err(error) => return Some(abandoned(target, "QEMU's stream", &error)),
    };
    set(loading, Loading::Under { ours: to_end });
    let writer = std::thread::Builder::new()
        .name("pagelift-state".into())
        .spawn(move || write_all(incoming, to_qemu));
    if let Err(error) = writer {
        return Some(abandoned(target, "starting a thread", &error));
    }
    Some(match load(target, ours, state) {
        Ok(target) => Loading::Loaded { target, run },
        Err(error) => Loading::Failed(error),
    })
}

/// What the engine has taken it has abandoned.
fn set(loading: &Mutex<Loading>, new: Loading) {
    let mut loading = loading.lock().unwrap_or_else(PoisonError::into_inner);
    if !matches!(*loading, Loading::Taken) {
        *loading = new;
    }
}

/// Nothing is loaded, for a reason of this side's: QEMU, which has begun, is ended.
fn abandoned(target: LoadingTarget, what: &str, error: &std::io::Error) -> Loading {
    // The first error is the one to tell.
    let _second = target.abandon();
    Loading::Failed(GuestError::new(what, error))
}

/// Lets QEMU take the stream that `first` opens.
fn start(
    mut held: HeldTarget,
    first: &StateChunk,
    journal: Option<&AgentJournal>,
) -> Result<(LoadingTarget, UnixStream, bool), GuestError> {
    let Some(preamble) = Preamble::decode(&first.bytes) else {
        // The first error is the one to tell.
        let _ = held.cancel();
        return Err(GuestError(
            "its device state is not that of a QEMU in direct mode".into(),
        ));
    };
    let settings = match held.arm() {
        Ok(settings) => settings,
        Err(error) => {
            // As above.
            let _ = held.cancel();
            return Err(GuestError::new("QEMU's migration settings", error));
        }
    };
    let script = journal.map(|journal| journal.end_unless_promised(settings));
    if let Some(Err(error)) = script {
        warn!(%error, "should pagelift-receive be killed now, 'cont' could start this QEMU's guest");
    }
    let (target, ours) = held.begin_incoming().map_err(|error| {
        journal.into_iter().for_each(AgentJournal::clear_rollback);
        GuestError::new("QEMU's migrate-incoming", error)
    })?;
    Ok((target, ours, preamble.run))
}

/// Passes the stream to QEMU, until the source's end or QEMU's.
fn write_all(incoming: Receiver<StateChunk>, mut to_qemu: UnixStream) {
    for chunk in incoming {
        if to_qemu.write_all(&chunk.bytes).is_err() {
            break;
        }
    }
    // The other direction ends too.
    let _ = to_qemu.shutdown(Shutdown::Both);
}

/// Passes QEMU's answers back, until its verdict, and asks it what came of it.
fn load(
    target: LoadingTarget,
    ours: UnixStream,
    state: StateSender,
) -> Result<LoadedTarget, GuestError> {
    match relay::upstream(ours, AnswerWriter(state)) {
        Ok(Some(Shut { error: 0 })) => target
            .wait_loaded(STEP_LIMIT)
            .map_err(|error| GuestError::new("loading it", error)),
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
