//! The target's steps of a hand-over.
//!
//! ```text
//! TargetQemu -hold-> HeldTarget -begin_incoming-> LoadingTarget -wait_loaded->
//! LoadedTarget -run-> RunningTarget
//! ```
//!
//! QEMU starts a guest by itself as soon as it has loaded it, even before it tells the source so.
//! That would be before the commit; hence `hold`: `stop` while waiting for the migration makes
//! QEMU load the guest, answer `SHUT` and leave it `paused` until `cont` (the effect of `-S`).
//!
//! A QEMU whose incoming migration has broken cannot take another one: it refuses with "The
//! incoming migration has already been started". By default it exits with code 1, saying why in
//! its log only. Here it is told to stay (`exit-on-error`, QEMU 9.1), asked why, and then ended
//! with `quit`, so that users read the reason and managers see the process go as they expect.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use pagelift_agent_protocol::RollbackStep;
use serde_json::{Value, json};

use super::inspect::{Guest, QemuVersion, run_state};
use super::migration::{self, QemuMigrationError, STEP_LIMIT};
use super::settings::MigrationSettings;
use crate::driver::Side;
use crate::qmp::{Address, Events, Qmp, QmpError, Timestamp};

/// The first version whose `migrate-incoming` takes `exit-on-error`.
const EXIT_ON_ERROR: QemuVersion = QemuVersion {
    major: 9,
    minor: 1,
    micro: 0,
};

/// How long QEMU may take to exit.
const QUIT_LIMIT: Duration = Duration::from_secs(10);

/// A target of which nothing has been changed.
#[derive(Debug)]
pub struct TargetQemu {
    qmp: Qmp,
    guest: Guest,
}

/// A guest that arrives here will not start by itself.
#[derive(Debug)]
#[must_use]
pub struct HeldTarget {
    session: TargetSession,
    /// The guest would have started by itself, before it was held.
    autostart: bool,
    version: QemuVersion,
    /// Our end of the stream, and the URI of QEMU's, which it has not begun to read.
    stream: Option<(UnixStream, String)>,
}

/// QEMU takes the stream.
#[derive(Debug)]
#[must_use]
pub struct LoadingTarget(TargetSession);

/// QEMU has the whole guest, stopped. It must not run before the source has given it up.
#[derive(Debug)]
#[must_use]
pub struct LoadedTarget {
    session: TargetSession,
    loaded_at: Option<Timestamp>,
}

/// The guest is the target's.
#[derive(Debug)]
pub struct RunningTarget {
    session: TargetSession,
    resumed_at: Option<Timestamp>,
}

impl TargetQemu {
    /// Connects and looks at the guest-to-be.
    ///
    /// # Errors
    /// When the monitor does not answer or the guest cannot be described.
    pub fn connect(address: &Address) -> Result<Self, QemuMigrationError> {
        let qmp = Qmp::connect(address)?;
        let guest = Guest::inspect(&qmp)?;
        Ok(Self { qmp, guest })
    }

    /// The guest-to-be.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// The monitor.
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// Keeps the guest from starting by itself.
    ///
    /// # Errors
    /// When this QEMU does not wait for a migration, or refuses; nothing is changed then.
    pub fn hold(self) -> Result<HeldTarget, QemuMigrationError> {
        let found = run_state(&self.qmp)?;
        if found != "inmigrate" {
            let needed = "inmigrate";
            return Err(QemuMigrationError::WrongState { found, needed });
        }
        let session = TargetSession {
            events: self.qmp.events(),
            qmp: self.qmp,
            settings: None,
        };
        session.qmp.execute("stop", Value::Null)?;
        Ok(HeldTarget {
            session,
            autostart: !started_with_s(self.guest.pid),
            version: self.guest.version,
            stream: None,
        })
    }
}

impl HeldTarget {
    /// Looks up which of QEMU's migration settings have to be changed, and what somebody else must do
    /// to put them back if we die. Nothing is changed.
    ///
    /// # Errors
    /// As QMP's.
    pub fn arm(&mut self) -> Result<Vec<RollbackStep>, QemuMigrationError> {
        let settings = MigrationSettings::plan(&self.session.qmp, Side::Target)?;
        let steps = settings.restore_steps();
        self.session.settings = Some(settings);
        Ok(steps)
    }

    /// Sets what direct mode needs and gives QEMU its end of the stream, from which it does not read
    /// yet: all that can be done before QEMU is spent for any other guest.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn open(&mut self) -> Result<(), QemuMigrationError> {
        if self.session.settings.is_none() {
            self.arm()?;
        }
        if let Some(settings) = &self.session.settings {
            settings.apply(&self.session.qmp)?;
        }
        self.stream = Some(migration::open_stream(&self.session.qmp)?);
        Ok(())
    }

    /// Has QEMU take the stream, whose our end is the second value; [opens](Self::open) it if that was
    /// not done.
    ///
    /// # Errors
    /// When QEMU refuses, as it does after another incoming migration.
    pub fn begin_incoming(mut self) -> Result<(LoadingTarget, UnixStream), QemuMigrationError> {
        match self.begin() {
            Ok(stream) => Ok((LoadingTarget(self.session), stream)),
            Err(error) => {
                // The first error is the one to tell.
                let _second = self.cancel();
                Err(error)
            }
        }
    }

    /// Puts QEMU back to where it was: it can take another migration.
    ///
    /// # Errors
    /// As QMP's.
    pub fn cancel(mut self) -> Result<(), QemuMigrationError> {
        if self.stream.take().is_some() {
            migration::forget_stream(&self.session.qmp);
        }
        if self.autostart {
            // While QEMU waits for a migration this only sets what it does afterwards.
            self.session.qmp.execute("cont", Value::Null)?;
        }
        self.session.restore()
    }

    fn begin(&mut self) -> Result<UnixStream, QemuMigrationError> {
        if self.stream.is_none() {
            self.open()?;
        }
        let (ours, uri) = self.stream.take().expect("it was opened just now");
        let qmp = &self.session.qmp;
        let mut arguments = json!({ "uri": uri });
        if self.version >= EXIT_ON_ERROR {
            arguments["exit-on-error"] = json!(false);
        }
        self.session.events.skip_to_now();
        if let Err(error) = qmp.execute("migrate-incoming", arguments) {
            migration::forget_stream(qmp);
            return Err(error.into());
        }
        Ok(ours)
    }
}

impl LoadingTarget {
    /// Waits until QEMU has loaded the whole guest: until it says `completed`, and then, asked,
    /// that the guest stands still. Its answer on the return path (`SHUT`) is no proof: a QEMU
    /// whose devices fail to load may say 0 there.
    ///
    /// # Errors
    /// When loading fails, the guest starts by itself, or `limit` passes; QEMU is ended then.
    pub fn wait_loaded(mut self, limit: Duration) -> Result<LoadedTarget, QemuMigrationError> {
        let mut started = false;
        let session = &mut self.0;
        let note = |name: &str, _| started |= name == "RESUME";
        let waited =
            migration::wait_status(&session.qmp, &mut session.events, "completed", limit, note);
        let error = match waited {
            Ok(_) if started => QemuMigrationError::StartedByItself,
            Ok(reached) => match session.check_held() {
                Ok(()) => {
                    return Ok(LoadedTarget {
                        session: self.0,
                        loaded_at: reached.at,
                    });
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        let _second_error = self.abandon();
        Err(error)
    }

    /// Gives the target up: its QEMU is ended, as it cannot take another migration.
    ///
    /// # Errors
    /// When it does not go.
    pub fn abandon(mut self) -> Result<(), QemuMigrationError> {
        self.0.quit()
    }
}

impl LoadedTarget {
    /// When QEMU had loaded it.
    pub fn loaded_at(&self) -> Option<Timestamp> {
        self.loaded_at
    }

    /// Takes the guest over; it runs unless `stay_paused`, which is for a guest that was paused
    /// on the source. To be called only once the source has given it up.
    ///
    /// # Errors
    /// When QEMU refuses, for instance because a disk image is still locked. The guest is whole
    /// and stopped here, and the source has it no more: `cont` is to be tried again.
    pub fn run(mut self, stay_paused: bool) -> Result<RunningTarget, QemuMigrationError> {
        let mut resumed_at = None;
        if !stay_paused {
            let session = &mut self.session;
            session.events.skip_to_now();
            session.qmp.execute("cont", Value::Null)?;
            resumed_at = session
                .events
                .wait("the event RESUME", STEP_LIMIT, |event| {
                    (event.name == "RESUME").then_some(event.at)
                })?;
        }
        Ok(RunningTarget {
            session: self.session,
            resumed_at,
        })
    }

    /// Gives the target up: its QEMU is ended, so that nobody starts the guest a second time.
    ///
    /// # Errors
    /// When it does not go.
    pub fn abandon(mut self) -> Result<(), QemuMigrationError> {
        self.session.quit()
    }
}

impl RunningTarget {
    /// When it went on; `None` when it stays paused.
    pub fn resumed_at(&self) -> Option<Timestamp> {
        self.resumed_at
    }

    /// Puts QEMU's settings back.
    ///
    /// # Errors
    /// As QMP's; the guest is not concerned.
    pub fn finish(mut self) -> Result<(), QemuMigrationError> {
        self.session.restore()
    }
}

#[derive(Debug)]
struct TargetSession {
    qmp: Qmp,
    events: Events,
    /// Known from just before QEMU takes the stream until they are put back.
    settings: Option<MigrationSettings>,
}

impl Drop for TargetSession {
    fn drop(&mut self) {
        // Nobody is left to be told. What is loaded stays stopped.
        let _untold = self.restore();
    }
}

impl TargetSession {
    fn restore(&mut self) -> Result<(), QemuMigrationError> {
        if let Some(settings) = self.settings.take() {
            settings.restore(&self.qmp)?;
        }
        Ok(())
    }

    /// That QEMU has the guest and does not run it.
    fn check_held(&self) -> Result<(), QemuMigrationError> {
        match run_state(&self.qmp)?.as_str() {
            "running" => Err(QemuMigrationError::StartedByItself),
            found @ "inmigrate" => Err(QemuMigrationError::WrongState {
                found: found.to_owned(),
                needed: "paused",
            }),
            _ => Ok(()),
        }
    }

    fn quit(&mut self) -> Result<(), QemuMigrationError> {
        self.settings = None;
        let gone = match self.qmp.execute("quit", Value::Null) {
            Ok(_) => self
                .events
                .wait("the end of QEMU", QUIT_LIMIT, |_| None::<()>),
            Err(error) => Err(error),
        };
        match gone {
            Err(QmpError::Lost { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a QEMU was started with `-S`, so that its guest was not to start by itself anyway.
///
/// One whose command line cannot be read counts as such: leaving a guest stopped is the lesser harm.
fn started_with_s(pid: u32) -> bool {
    let is_s = |word: &[u8]| word == b"-S" || word == b"--S";
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .map_or(true, |line| line.split(|byte| *byte == 0).any(is_s))
}
