//! What the engine asks of the program that runs the guest.
//!
//! A hypervisor implements [`SourceGuest`] where the guest leaves and [`TargetGuest`] where it
//! arrives. Each has few required methods; the others have defaults that fit a hypervisor whose
//! device state is a stream of bytes and whose vCPUs cannot be slowed down. One that can slow them
//! implements [`Throttler`] as well.
//!
//! All methods of a guest are called from one thread, never under a lock of the engine.

mod device_state;
mod journal;
mod throttler;

pub use device_state::{DeviceChannel, StateFlow, StateSender, Waker};
pub use journal::{Journal, Promise, RecordError};
pub use throttler::Throttler;

pub(crate) use device_state::{
    QUEUED_CHUNKS, STATE_CHUNK_BYTES, StateReader, StateWriter, state_queue,
};

use std::io::{Read, Write};
use std::time::Duration;

use crate::converge::SwitchoverCosts;
use crate::migration::GuestLocation;

/// Why a guest did not do what was asked, in words for people: the thing, the reason, the way
/// out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GuestError(pub String);

impl GuestError {
    /// `what` was tried and failed with `error`.
    pub fn new(what: &str, error: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}

impl From<std::io::Error> for GuestError {
    /// Device state that could not be written or read.
    fn from(error: std::io::Error) -> Self {
        Self::new("its device state", error)
    }
}

/// What a guest answers.
pub type Result<T> = std::result::Result<T, GuestError>;

/// The guest on the source.
///
/// ```text
/// attach -> (running) -> pause -> save_devices -> relinquish -> finish(Target)
///                          |           |              |
///                          +-----------+--------------+--> resume -> finish(Source)
/// ```
pub trait SourceGuest: Send {
    /// Pauses the vCPUs and quiesces the devices. From its return on, no memory of the guest
    /// changes.
    ///
    /// # Errors
    /// When it cannot; the guest then still runs.
    fn pause(&mut self) -> Result<()>;

    /// Writes the device state to `out`. All memory is at the target.
    ///
    /// # Errors
    /// When there is none to be had, or `out` failed; the guest is paused and can be resumed.
    fn save_devices(&mut self, out: &mut dyn Write) -> Result<()>;

    /// Makes sure that this guest never runs here again: the target is ready for it.
    ///
    /// # Errors
    /// When that cannot be made sure; the guest is paused and can be resumed.
    fn relinquish(&mut self) -> Result<()>;

    /// The guest may stand still for `limit` from now on; called before [`pause`](Self::pause), and
    /// while it stands. A hypervisor that can lets the guest go on by itself after that time if
    /// this process is not heard of any more: it may hang. It must then also make sure that the
    /// guest is not [relinquished](Self::relinquish) by a process that wakes up.
    ///
    /// # Errors
    /// When the guest goes on already: the migration ends.
    fn hold_at_most(&mut self, limit: Duration) -> Result<()> {
        let _ = limit;
        Ok(())
    }

    /// Lets the guest go on here: the migration failed after [`pause`](Self::pause).
    ///
    /// # Errors
    /// When it does not.
    fn resume(&mut self) -> Result<()>;

    /// The migration begins. A guest whose device state travels both ways keeps `channel` and
    /// says [`StateFlow::Relayed`].
    fn attach(&mut self, channel: DeviceChannel) -> StateFlow {
        drop(channel);
        StateFlow::Written
    }

    /// Whether the guest is still there. Asked many times a second.
    ///
    /// # Errors
    /// When it is not, in words that "and the guest with it" can follow: the migration ends.
    fn check(&mut self) -> Result<()> {
        Ok(())
    }

    /// A reason for the guest to stay here, such as a disk that failed. Asked as often as
    /// [`check`](Self::check), until the guest is relinquished. With one the migration ends, and
    /// the guest is left as it is, or goes on here.
    fn abort_reason(&mut self) -> Option<String> {
        None
    }

    /// How long the guest has been paused by now, where the hypervisor knows it better than by
    /// when [`pause`](Self::pause) was called. Asked when that has returned.
    fn paused_for(&self) -> Option<Duration> {
        None
    }

    /// What stopping the guest here and starting it there costs, without doing so: measured where
    /// that can be (round trips to a monitor, a rehearsal of one's own steps), with a stated
    /// default where it cannot. Asked once before the first round, and after every change of
    /// throttle.
    fn switchover_costs(&mut self) -> SwitchoverCosts {
        SwitchoverCosts::default()
    }

    /// What slows the guest down, if anything can. Without it no policy throttles.
    fn throttler(&mut self) -> Option<&mut dyn Throttler> {
        None
    }

    /// Where this side's promises are kept, if anywhere. Without it a crash between the hand-over
    /// and its answer leaves a guest of which nobody knows whose it is.
    fn journal(&mut self) -> Option<&mut dyn Journal> {
        None
    }

    /// The migration is over, and the guest is at `place`: lets go of what was held for it. The
    /// last call.
    fn finish(&mut self, place: GuestLocation) {
        let _ = place;
    }
}

/// The guest on the target.
///
/// ```text
/// attach -> load_devices -> run -> finish(Target)
///    |           |           |
///    +-----------+-----------+---> finish(Source | Unknown)
/// ```
pub trait TargetGuest: Send {
    /// Loads the device state from `state`, up to its end. All memory is there.
    ///
    /// Not called for a guest that relays its state.
    ///
    /// # Errors
    /// When the state cannot be loaded: the guest stays on the source.
    fn load_devices(&mut self, state: &mut dyn Read) -> Result<()>;

    /// Runs the guest.
    ///
    /// # Errors
    /// When it does not run. It is this side's guest all the same.
    fn run(&mut self) -> Result<()>;

    /// The migration begins. A guest whose device state travels both ways keeps `channel` and
    /// says [`StateFlow::Relayed`].
    ///
    /// # Errors
    /// When this side cannot take a guest.
    fn attach(&mut self, channel: DeviceChannel) -> Result<StateFlow> {
        drop(channel);
        Ok(StateFlow::Written)
    }

    /// Whether the hypervisor that is to take the guest is still there. Asked many times a
    /// second.
    ///
    /// # Errors
    /// When it is not: the migration ends.
    fn check(&mut self) -> Result<()> {
        Ok(())
    }

    /// Whether a guest that relays its state has loaded it. Asked after all memory is there,
    /// whenever the channel's waker was used.
    ///
    /// # Errors
    /// When loading failed.
    fn is_loaded(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// Where this side's promises are kept, if anywhere.
    fn journal(&mut self) -> Option<&mut dyn Journal> {
        None
    }

    /// The migration is over, and the guest is at `place`. At [`GuestLocation::Source`] what was
    /// prepared here is abandoned; at [`GuestLocation::Unknown`] it is kept and does not run. The
    /// last call.
    fn finish(&mut self, place: GuestLocation) {
        let _ = place;
    }
}
