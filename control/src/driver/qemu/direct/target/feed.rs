//! Passing the device state on to the target's QEMU, as it comes, until QEMU has loaded it.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use pagelift_engine::guest::{DeviceChannel, GuestError, StateSender};
use pagelift_engine::wire::StateChunk;

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

/// Feeds QEMU with the device state as it comes, and waits until it is loaded.
pub(super) fn feed(loading: &Mutex<Loading>, channel: DeviceChannel) {
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
        Err(error) => return set(Loading::Failed(GuestError::new("QEMU's stream", error))),
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
        .map_err(|error| GuestError::new("QEMU's migrate-incoming", error))?;
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
        .map_err(|error| GuestError::new("QEMU's stream", error))?;
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
            let _ = to_qemu.shutdown(Shutdown::Both);
        });
    if let Err(error) = writer {
        return Err(GuestError::new("starting a thread", error));
    }
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
