//! Stops a program at a point of a migration, so that a test can strike just there.
//!
//! With `PAGELIFT_STOP_AT=POINT` in its environment a program sends itself SIGSTOP when it first
//! gets to that point, as if somebody had pressed ctrl-Z at that very moment; SIGCONT lets it go
//! on. Nothing else changes, and without the variable nothing happens. It is for tests of what
//! befalls a migration: a machine that hangs, a process that is killed, a link that is cut.
//!
//! The points lie around the calls that the engine makes to the guest, and in the engine's
//! reports of progress; the engine itself knows nothing of them. Of the other side, the
//! connections and QEMU nothing is stopped.

use std::env;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use pagelift_engine::converge::{SwitchoverCosts, ThrottleShare};
use pagelift_engine::guest::{self, DeviceChannel, SourceGuest, StateFlow, TargetGuest, Throttler};
use pagelift_engine::migration::{GuestLocation, SourceStatus};
use rustix::process::{Signal, getpid, kill_process};

/// The variable.
const VARIABLE: &str = "PAGELIFT_STOP_AT";

/// Where a program can be stopped, in the order in which a migration gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Point {
    /// Sender: it has said who it is, and no round has begun.
    Connected,
    /// Sender: in the first round.
    FirstRound,
    /// Sender: in a later round, while the guest runs.
    LaterRound,
    /// Sender: the guest is throttled for the first time.
    Throttled,
    /// Sender: the guest is stopped; the pages it wrote last are not harvested.
    Stopped,
    /// Sender: the last pages are being sent.
    LastPages,
    /// Sender: the target has all pages; no device state was sent.
    Placed,
    /// Sender: device state flows.
    State,
    /// Receiver: the device state is loaded; the sender has not been told.
    Loaded,
    /// Sender: the target is ready; the guest is still the source's.
    Ready,
    /// Sender: the source cannot run the guest any more; the target has not been told.
    GivenUp,
    /// Receiver: the guest is the target's, and does not run yet.
    Granted,
    /// Receiver: the guest runs; the sender has not been told.
    Running,
}

/// The point at which to stop, if any.
#[derive(Debug, Default)]
pub struct StopAt {
    point: Option<Point>,
    done: AtomicBool,
    /// Whether the guest was asked after once.
    checked: AtomicBool,
    guest_stopped: AtomicBool,
}

impl StopAt {
    /// What the environment asks for.
    ///
    /// # Errors
    /// When it names no point.
    pub fn from_env() -> Result<Self> {
        let Some(text) = env::var_os(VARIABLE) else {
            return Ok(Self::default());
        };
        match Point::from_str(&text.to_string_lossy(), false) {
            Ok(point) => Ok(Self {
                point: Some(point),
                ..Self::default()
            }),
            Err(error) => bail!("{VARIABLE}: {error}; unset it"),
        }
    }

    /// The program is at `point`.
    pub fn reached(&self, point: Point) {
        if self.point != Some(point) || self.done.swap(true, Ordering::AcqRel) {
            return;
        }
        // One's own process can always be signalled.
        let _ = kill_process(getpid(), Signal::STOP);
        // Another thread may take the signal, and this one go on for a moment.
        std::thread::sleep(Duration::from_millis(1));
    }

    /// The sender is where `status` says.
    pub fn at(&self, status: &SourceStatus) {
        if status.throttle != ThrottleShare::NONE && !status.blackout {
            self.reached(Point::Throttled);
        }
        match (status.round, status.blackout) {
            (0, _) => {}
            (1, false) => self.reached(Point::FirstRound),
            (_, false) => self.reached(Point::LaterRound),
            (_, true) if self.guest_stopped.load(Ordering::Acquire) => {
                self.reached(Point::LastPages);
            }
            // It is about to be stopped.
            (_, true) => {}
        }
    }
}

/// A guest with the points around what is asked of it.
#[derive(Debug)]
pub struct Stopping<'a, G> {
    /// The guest.
    pub guest: &'a mut G,
    /// Where to stop.
    pub at: &'a StopAt,
}

impl<G: SourceGuest> SourceGuest for Stopping<'_, G> {
    fn attach(&mut self, channel: DeviceChannel) -> StateFlow {
        self.guest.attach(channel)
    }

    fn check(&mut self) -> guest::Result<()> {
        // What the coordinator says first it says between the first check and the second.
        if self.at.checked.swap(true, Ordering::AcqRel) {
            self.at.reached(Point::Connected);
        }
        self.guest.check()
    }

    fn abort_reason(&mut self) -> Option<String> {
        self.guest.abort_reason()
    }

    fn throttler(&mut self) -> Option<&mut dyn Throttler> {
        self.guest.throttler()
    }

    fn switchover_costs(&mut self) -> SwitchoverCosts {
        self.guest.switchover_costs()
    }

    fn pause(&mut self) -> guest::Result<()> {
        self.guest.pause()?;
        self.at.reached(Point::Stopped);
        self.at.guest_stopped.store(true, Ordering::Release);
        Ok(())
    }

    fn paused_for(&self) -> Option<Duration> {
        self.guest.paused_for()
    }

    fn save_devices(&mut self, out: &mut dyn Write) -> guest::Result<()> {
        self.at.reached(Point::Placed);
        self.guest.save_devices(out)?;
        self.at.reached(Point::State);
        Ok(())
    }

    fn relinquish(&mut self) -> guest::Result<()> {
        self.at.reached(Point::Ready);
        self.guest.relinquish()?;
        self.at.reached(Point::GivenUp);
        Ok(())
    }

    fn resume(&mut self) -> guest::Result<()> {
        self.guest.resume()
    }

    fn finish(&mut self, place: GuestLocation) {
        self.guest.finish(place);
    }
}

impl<G: TargetGuest> TargetGuest for Stopping<'_, G> {
    fn attach(&mut self, channel: DeviceChannel) -> guest::Result<StateFlow> {
        self.guest.attach(channel)
    }

    fn check(&mut self) -> guest::Result<()> {
        self.guest.check()
    }

    fn load_devices(&mut self, state: &mut dyn Read) -> guest::Result<()> {
        self.guest.load_devices(state)?;
        self.at.reached(Point::Loaded);
        Ok(())
    }

    fn is_loaded(&mut self) -> guest::Result<bool> {
        let is_loaded = self.guest.is_loaded()?;
        if is_loaded {
            self.at.reached(Point::Loaded);
        }
        Ok(is_loaded)
    }

    fn run(&mut self) -> guest::Result<()> {
        self.at.reached(Point::Granted);
        self.guest.run()?;
        self.at.reached(Point::Running);
        Ok(())
    }

    fn finish(&mut self, place: GuestLocation) {
        self.guest.finish(place);
    }
}
