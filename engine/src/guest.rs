//! What the engine asks of whoever runs the guest.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::converge::{SwitchoverCosts, ThrottleShare};
use crate::migration::Ownership;
use crate::units::ByteCount;
use crate::wire::StateChunk;

/// Pieces of device state that may wait for the guest to take them.
pub(crate) const QUEUED_CHUNKS: usize = 64;

/// Longest piece of device state in one frame.
pub(crate) const STATE_CHUNK_BYTES: usize = 64 << 10;

/// Why a guest did not do what was asked, in words for people: the thing, the reason, the way
/// out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GuestError(pub String);

/// The guest on the source.
///
/// All methods are called from one thread.
pub trait SourceGuest: Send {
    /// The migration begins; device state and the answers to it go through `parts`.
    fn attach(&mut self, parts: Parts);

    /// Whether the guest is still there. Asked many times a second.
    ///
    /// # Errors
    /// When it is not, in words that "and the guest with it" can follow: the migration ends.
    fn check(&mut self) -> Result<(), GuestError> {
        Ok(())
    }

    /// Whether there is a reason for the guest to stay here, such as a disk that failed. Asked as
    /// often as [`check`](Self::check), until it is given up.
    ///
    /// # Errors
    /// When there is one: the migration ends, and the guest is left as it is, or goes on here.
    fn agrees(&mut self) -> Result<(), GuestError> {
        Ok(())
    }

    /// Keeps the guest from running for a share of its time, until another share is given. The
    /// guest is released by `ThrottleShare::NONE`, and must also be released by everything that ends the
    /// migration. Only policies that throttle ask for it.
    ///
    /// # Errors
    /// When it cannot be throttled: the migration ends. Guests of which that is known have
    /// policies that do not throttle.
    fn throttle(&mut self, share: ThrottleShare) -> Result<(), GuestError>;

    /// What stopping it here and starting it there costs, without doing so: measured where that
    /// can be (round trips to a monitor, a rehearsal of one's own steps), with a stated default
    /// where it cannot. Asked once before the first round, and after every change of throttle.
    fn switchover_costs(&mut self) -> SwitchoverCosts {
        SwitchoverCosts::default()
    }

    /// Processor time that each vCPU has used so far, in the order of their index. Asked at every
    /// harvest, and up to twenty times a second while the guest is throttled. `None`: it cannot be
    /// told; all vCPUs are then throttled alike. A guest whose vCPUs can only be throttled together
    /// tells the mean of all, as that of a single one.
    fn vcpu_times(&mut self) -> Option<Vec<Duration>> {
        None
    }

    /// As [`throttle`](Self::throttle), with a share for each vCPU, in the order of
    /// [`vcpu_times`](Self::vcpu_times); only called on guests that tell those.
    ///
    /// # Errors
    /// As there.
    fn throttle_vcpus(&mut self, shares: &[ThrottleShare]) -> Result<(), GuestError> {
        // One that cannot tell its vCPUs apart slows all as much as the slowest.
        self.throttle(shares.iter().copied().max().unwrap_or_default())
    }

    /// Stops the vCPUs and quiesces the devices, so that no memory changes any more. Returns how
    /// long ago the guest stopped.
    ///
    /// # Errors
    /// When it cannot; the guest then still runs.
    fn stop(&mut self) -> Result<Duration, GuestError>;

    /// Begins to send the device state. All memory is at the target.
    ///
    /// # Errors
    /// When there is none to be had; the guest is stopped and can be resumed.
    fn save_state(&mut self) -> Result<(), GuestError>;

    /// The target is ready: makes sure that this guest never runs again.
    ///
    /// # Errors
    /// When it cannot be made sure; the guest is stopped and can be resumed.
    fn give_up(&mut self) -> Result<(), GuestError>;

    /// The migration failed after [`stop`](Self::stop): the guest goes on here.
    ///
    /// # Errors
    /// When it does not.
    fn resume(&mut self, ownership: &Ownership) -> Result<(), GuestError>;

    /// The migration is over, however it ended: lets go of what was held for it. The last call.
    fn released(&mut self) {}
}

/// The guest on the target.
pub trait TargetGuest: Send {
    /// The migration begins; device state and the answers to it go through `parts`.
    ///
    /// # Errors
    /// When this side cannot take a guest.
    fn attach(&mut self, parts: Parts) -> Result<(), GuestError>;

    /// Whether the hypervisor that is to take the guest is still there. Asked many times a
    /// second.
    ///
    /// # Errors
    /// When it is not: the migration ends.
    fn check(&mut self) -> Result<(), GuestError> {
        Ok(())
    }

    /// Whether the device state is loaded. Called after all memory is there, whenever the waker
    /// in `parts` was used.
    ///
    /// # Errors
    /// When loading failed.
    fn is_loaded(&mut self) -> Result<bool, GuestError>;

    /// Runs the guest.
    ///
    /// # Errors
    /// When it does not run. It is this side's guest all the same.
    fn run(&mut self, ownership: &Ownership) -> Result<(), GuestError>;

    /// The migration failed: the guest stays on the source.
    fn abandon(&mut self);
}

/// What a guest is given at the start of a migration.
#[derive(Debug)]
pub struct Parts {
    /// Sends device state (source), or answers to it (target).
    pub state: StateSender,
    /// Gives the other side's.
    pub incoming: Receiver<StateChunk>,
    /// Wakes the coordinator: something has changed.
    pub waker: Waker,
}

/// Makes the coordinator look again.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// Calls `wake` each time.
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Makes it look.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

/// Sends opaque bytes to the guest's other half.
#[derive(Clone)]
pub struct StateSender {
    send: Arc<dyn Fn(StateChunk) -> io::Result<()> + Send + Sync>,
    sent: Arc<dyn Fn(ByteCount) + Send + Sync>,
}

impl std::fmt::Debug for StateSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateSender")
    }
}

impl StateSender {
    /// Sends each chunk by `send`; tells `sent` how many bytes of state have gone.
    pub(crate) fn new(
        send: impl Fn(StateChunk) -> io::Result<()> + Send + Sync + 'static,
        sent: impl Fn(ByteCount) + Send + Sync + 'static,
    ) -> Self {
        Self {
            send: Arc::new(send),
            sent: Arc::new(sent),
        }
    }

    /// Sends `bytes`, in as many pieces as it takes; `last` if none follow. Waits while the
    /// connection is full.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn send(&self, bytes: &[u8], last: bool) -> io::Result<()> {
        let send = |last, bytes: &[u8]| {
            (self.send)(StateChunk {
                last,
                bytes: bytes.to_vec(),
            })
        };
        let mut pieces = bytes.chunks(STATE_CHUNK_BYTES).peekable();
        if pieces.peek().is_none() {
            send(last, &[])?;
        }
        while let Some(piece) = pieces.next() {
            send(last && pieces.peek().is_none(), piece)?;
        }
        (self.sent)(ByteCount(bytes.len() as u64));
        Ok(())
    }
}

/// A bounded queue of the other side's device state.
pub(crate) fn state_queue() -> (Sender<StateChunk>, Receiver<StateChunk>) {
    bounded(QUEUED_CHUNKS)
}
