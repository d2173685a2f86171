//! Passing the device state on to the target's QEMU, as it comes, until QEMU has loaded it.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, select};
use pagelift_agent_protocol::RollbackStep;
use pagelift_engine::guest::{DeviceChannel, GuestError, StateSender};
use pagelift_engine::wire::StateChunk;
use tracing::warn;

use crate::driver::qemu::direct::hand_over::AgentJournal;
use crate::driver::qemu::direct::preamble::Preamble;
use crate::driver::qemu::migration::STEP_LIMIT;
use crate::driver::qemu::relay;
use crate::driver::qemu::return_path::Shut;
use crate::driver::qemu::target::{HeldTarget, LoadedTarget, LoadingTarget};

/// How much device state is kept back, in bytes, until all memory is here: what QEMU sends before its
/// guest stops, but for video memory that is filled. Where it is more, QEMU takes it as it comes.
const KEPT_BACK_BYTES: usize = 1 << 20;

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
    memory_is_complete: &Receiver<()>,
) {
    let DeviceChannel {
        state,
        incoming,
        waker,
    } = channel;
    let rest = incoming.clone();
    let outcome = feed_qemu(loading, incoming, state, journal, memory_is_complete);
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
    memory_is_complete: &Receiver<()>,
) -> Option<Loading> {
    // Until the first byte comes, QEMU is untouched.
    let first = incoming.recv().ok()?;
    let mut held = match &mut *loading.lock().unwrap_or_else(PoisonError::into_inner) {
        Loading::Waiting(held) => held.take(),
        _ => None,
    }?;
    let (run, settings) = match prepare(&mut held, &first, journal) {
        Ok(prepared) => prepared,
        Err(error) => return Some(not_begun(held, journal, error)),
    };
    // Until all memory is here QEMU is as good for another guest: it can load one only.
    let Some(kept) = keep_back(first, &incoming, memory_is_complete) else {
        let _ = held.cancel();
        return None;
    };
    let (target, ours) = match begin(held, settings, journal) {
        Ok(begun) => begun,
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
        .spawn(move || write_all(kept.into_iter().skip(1).chain(incoming), to_qemu));
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

/// QEMU has not begun, because of `error`: it is as it was.
fn not_begun(held: HeldTarget, journal: Option<&AgentJournal>, error: GuestError) -> Loading {
    // The first error is the one to tell.
    let _ = held.cancel();
    journal.into_iter().for_each(AgentJournal::clear_rollback);
    Loading::Failed(error)
}

/// Makes QEMU ready for the stream that `first` opens. Whether its guest is to run, and what puts
/// QEMU's settings back.
fn prepare(
    held: &mut HeldTarget,
    first: &StateChunk,
    journal: Option<&AgentJournal>,
) -> Result<(bool, Vec<RollbackStep>), GuestError> {
    let not_direct = || GuestError("its device state is not that of a QEMU in direct mode".into());
    let preamble = Preamble::decode(&first.bytes).ok_or_else(not_direct)?;
    let failed = |error| GuestError::new("QEMU's migration settings", error);
    let settings = held.arm().map_err(failed)?;
    if let Some(Err(error)) = journal.map(|journal| journal.put_back(&settings)) {
        warn!(%error, "should pagelift-receive be killed now, this QEMU keeps its migration settings");
    }
    held.open().map_err(failed)?;
    Ok((preamble.run, settings))
}

/// Has QEMU read the stream: it can take no other guest from here on.
fn begin(
    held: HeldTarget,
    settings: Vec<RollbackStep>,
    journal: Option<&AgentJournal>,
) -> Result<(LoadingTarget, UnixStream), GuestError> {
    if let Some(Err(error)) = journal.map(|journal| journal.end_unless_promised(settings)) {
        warn!(%error, "should pagelift-receive be killed now, 'cont' could start this QEMU's guest");
    }
    held.begin_incoming().map_err(|error| {
        journal.into_iter().for_each(AgentJournal::clear_rollback);
        GuestError::new("QEMU's migrate-incoming", error)
    })
}

/// The device state that comes before all memory is here, `first` of all. `None` when the migration
/// ends before.
fn keep_back(
    first: StateChunk,
    incoming: &Receiver<StateChunk>,
    memory_is_complete: &Receiver<()>,
) -> Option<Vec<StateChunk>> {
    let mut bytes = first.bytes.len();
    let mut kept = vec![first];
    while bytes <= KEPT_BACK_BYTES {
        select! {
            recv(incoming) -> chunk => {
                let chunk: StateChunk = chunk.ok()?;
                bytes += chunk.bytes.len();
                kept.push(chunk);
            }
            recv(memory_is_complete) -> complete => {
                complete.ok()?;
                break;
            }
        }
    }
    Some(kept)
}

/// Passes the stream to QEMU, until the source's end or QEMU's.
fn write_all(chunks: impl Iterator<Item = StateChunk>, mut to_qemu: UnixStream) {
    for chunk in chunks {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(bytes: usize) -> StateChunk {
        StateChunk {
            last: false,
            bytes: vec![0; bytes],
        }
    }

    #[test]
    fn device_state_is_kept_back_until_all_memory_is_here() {
        let (_state, incoming) = crossbeam_channel::unbounded();
        let (complete, is_complete) = crossbeam_channel::bounded(1);
        complete.send(()).unwrap();
        let kept = keep_back(chunk(2), &incoming, &is_complete);
        assert_eq!(kept, Some(vec![chunk(2)]));

        // The source is lost before: there is nothing to begin QEMU for.
        let (state, incoming) = crossbeam_channel::unbounded();
        let (_complete, is_complete) = crossbeam_channel::bounded(1);
        state.send(chunk(2)).unwrap();
        drop(state);
        assert_eq!(keep_back(chunk(2), &incoming, &is_complete), None);

        // What would be too much goes on.
        let (state, incoming) = crossbeam_channel::unbounded();
        state.send(chunk(KEPT_BACK_BYTES)).unwrap();
        let kept = keep_back(chunk(1), &incoming, &is_complete).unwrap();
        assert_eq!(kept.len(), 2);
    }
}
