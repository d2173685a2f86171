//! Starting, ending and pausing guests.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pagelift_control::qmp::QmpError;
use pagelift_rpc::calls::state;
use pagelift_rpc::error::Error;
use pagelift_rpc::events::lifecycle;
use pagelift_v3::domain::{Chardev, Domain};
use serde_json::Value;
use tracing::warn;

use super::{Active, Ending, Guest, Guests, Job, errors};
use crate::driver::qemu::{Launch, Qemu, argv, end_leftover};

/// How long the end of a process may take to be noticed.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// How a guest is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartFlags {
    /// It stays paused.
    pub paused: bool,
}

fn of_monitor(error: &QmpError) -> Error {
    errors::internal(error)
}

impl Guests {
    /// Starts a guest from its definition.
    ///
    /// # Errors
    /// When it runs, has no definition, or does not start.
    pub fn start(self: &Arc<Self>, guest: &Arc<Guest>, flags: StartFlags) -> Result<(), Error> {
        let job = guest.begin("remoteDispatchDomainCreate")?;
        let inner = guest.inner();
        if inner.active.is_some() {
            return Err(errors::invalid("domain is already running"));
        }
        let Some(domain) = inner.definition.clone() else {
            return Err(errors::no_guest("the guest has ended, and was not defined"));
        };
        drop(inner);
        self.boot(&job, domain, flags)
    }

    /// Starts a guest from `domain`, and forgets it when it ends.
    ///
    /// # Errors
    /// When it runs, another has its name or UUID, or it does not start.
    pub fn create(
        self: &Arc<Self>,
        domain: Domain,
        flags: StartFlags,
    ) -> Result<Arc<Guest>, Error> {
        let job = self.claim(&domain, "remoteDispatchDomainCreateXML")?;
        let guest = Arc::clone(job.guest());
        let booted = self.boot(&job, domain, flags);
        drop(job);
        if booted.is_err() {
            self.forget_if_gone(&guest);
        }
        booted.map(|()| guest)
    }

    /// Starts the guest of `job`, and lets it run.
    fn boot(self: &Arc<Self>, job: &Job, domain: Domain, flags: StartFlags) -> Result<(), Error> {
        let guest = job.guest();
        let qemu = self.launch(job, domain, false)?;
        let started = if flags.paused {
            Ok(Value::Null)
        } else {
            qemu.execute("cont")
        };
        if let Err(error) = started {
            self.end(job, Ending::Failed)?;
            return Err(of_monitor(&error));
        }
        let mut inner = guest.inner();
        inner.state = if flags.paused {
            state::PAUSED_USER
        } else {
            state::RUNNING_BOOTED
        };
        let saved = guest.save(&inner);
        drop(inner);
        if saved.is_err() {
            self.end(job, Ending::Failed)?;
            return saved;
        }
        let events = &guest.shared.events;
        let wire = guest.wire();
        if !flags.paused {
            events.lifecycle(&wire, lifecycle::RESUMED_UNPAUSED);
        }
        events.lifecycle(&wire, lifecycle::STARTED_BOOTED);
        if flags.paused {
            events.lifecycle(&wire, lifecycle::SUSPENDED_PAUSED);
        }
        Ok(())
    }

    /// Starts a process for the guest of `job`, whose vCPUs do not run yet; with `incoming` it waits for
    /// the guest's state from elsewhere. When this fails, nothing of it is left.
    ///
    /// # Errors
    /// When it does not start.
    pub fn launch(
        self: &Arc<Self>,
        job: &Job,
        mut domain: Domain,
        incoming: bool,
    ) -> Result<Arc<Qemu>, Error> {
        let guest = job.guest();
        let shared = &guest.shared;
        let launch = Launch {
            name: domain.name.clone(),
            program: shared.emulator(&domain),
            args: argv(&domain, &shared.start_of(guest.uuid(), incoming))
                .map_err(errors::unbuildable)?,
            environment: domain.command_line.environment.clone(),
            start: shared.start_of(guest.uuid(), incoming),
            log: shared
                .config
                .paths
                .log
                .join(format!("{}.log", guest.uuid())),
        };
        domain.started(shared.take_id(), None);
        // Kept before there is a process, so that a daemon that comes back looks for it.
        let mut inner = guest.inner();
        let before = inner.state;
        inner.state = state::PAUSED_STARTING_UP;
        inner.active = Some(Active {
            domain,
            qemu: None,
            unreached: None,
            ending: None,
        });
        let launched = guest.save(&inner).and_then(|()| {
            drop(inner);
            Qemu::launch(&launch).map_err(|error| errors::of_qemu(&error))
        });
        let mut inner = guest.inner();
        let qemu = match launched {
            Ok(qemu) => Arc::new(qemu),
            Err(error) => {
                inner.active = None;
                inner.state = before;
                if let Err(error) = guest.save(&inner) {
                    warn!(%error, "a guest that did not start is still kept");
                }
                return Err(error);
            }
        };
        if let Some(active) = &mut inner.active {
            note_terminals(&mut active.domain, &qemu);
            active.qemu = Some(Arc::clone(&qemu));
        }
        drop(inner);
        self.watch(guest, &qemu);
        Ok(qemu)
    }

    /// Ends the process of the guest of `job`.
    ///
    /// # Errors
    /// When there is none, or it cannot be ended.
    pub fn end(&self, job: &Job, why: Ending) -> Result<(), Error> {
        let guest = job.guest();
        let mut inner = guest.inner();
        let qemu = match inner.qemu() {
            Ok(qemu) => Some(qemu),
            Err(_) if inner.is_unreached() => None,
            Err(error) => return Err(error),
        };
        if let Some(active) = &mut inner.active {
            active.ending = Some(why);
        }
        drop(inner);
        match qemu {
            Some(qemu) => qemu.end().map_err(errors::internal)?,
            None => end_leftover(&guest.shared.start_of(guest.uuid(), false)),
        }
        let inner = guest.inner();
        let is_there = |inner: &mut super::Inner| inner.active.is_some();
        let waited = guest
            .changed
            .wait_timeout_while(inner, END_PATIENCE, is_there);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if inner.active.is_some() {
            return Err(errors::internal("the end of the guest was not noticed"));
        }
        Ok(())
    }

    /// Ends a guest at once.
    ///
    /// # Errors
    /// When it does not run, or cannot be ended.
    pub fn destroy(&self, guest: &Arc<Guest>) -> Result<(), Error> {
        let job = guest.begin("remoteDispatchDomainDestroy")?;
        self.end(&job, Ending::Destroyed)
    }
}

impl Guest {
    /// Asks the guest to shut down.
    ///
    /// # Errors
    /// When it does not run.
    pub fn shut_down(self: &Arc<Self>) -> Result<(), Error> {
        let _job = self.begin("remoteDispatchDomainShutdown")?;
        let qemu = self.inner().qemu()?;
        let asked = qemu.execute("system_powerdown");
        asked.map(drop).map_err(|error| of_monitor(&error))
    }

    /// Pauses the guest.
    ///
    /// # Errors
    /// When it does not run.
    pub fn suspend(self: &Arc<Self>) -> Result<(), Error> {
        let _job = self.begin("remoteDispatchDomainSuspend")?;
        let inner = self.inner();
        let qemu = inner.qemu()?;
        if inner.state == state::PAUSED_MIGRATION {
            return Err(errors::invalid("domain is being migrated"));
        }
        drop(inner);
        qemu.execute("stop").map_err(|error| of_monitor(&error))?;
        self.turn(state::PAUSED_USER, lifecycle::SUSPENDED_PAUSED)
    }

    /// Lets the guest, whose job the caller has, run on.
    ///
    /// # Errors
    /// When it runs, or has ended.
    pub fn resume(&self, _job: &Job) -> Result<(), Error> {
        let inner = self.inner();
        let qemu = inner.qemu()?;
        if inner.state.0 == state::RUNNING_BOOTED.0 {
            return Err(errors::invalid("domain is already running"));
        }
        if inner.state == state::PAUSED_MIGRATION {
            return Err(errors::invalid("domain is being migrated"));
        }
        drop(inner);
        qemu.execute("cont").map_err(|error| of_monitor(&error))?;
        self.turn(state::RUNNING_UNPAUSED, lifecycle::RESUMED_UNPAUSED)
    }

    /// The guest is now in `state`, of which `event` tells; unless it has ended.
    fn turn(&self, state: (i32, i32), event: (i32, i32)) -> Result<(), Error> {
        let mut inner = self.inner();
        if inner.active.is_none() {
            return Err(errors::not_running());
        }
        inner.state = state;
        let saved = self.save(&inner);
        drop(inner);
        self.shared.events.lifecycle(&self.wire(), event);
        saved
    }
}

/// Writes down which pseudo-terminals QEMU got.
fn note_terminals(domain: &mut Domain, qemu: &Qemu) {
    let serials = &mut domain.devices.serials;
    if !serials
        .iter()
        .any(|serial| matches!(serial.backend, Chardev::Pty(_)))
    {
        return;
    }
    let chardevs = qemu.execute("query-chardev").unwrap_or_default();
    for serial in serials {
        let label = format!("char{}", serial.alias());
        let mut all = chardevs.as_array().into_iter().flatten();
        let own = all.find(|chardev| chardev["label"] == *label);
        let path = own.and_then(|own| own["filename"].as_str()?.strip_prefix("pty:"));
        if let Chardev::Pty(terminal) = &mut serial.backend {
            *terminal = path.map(str::to_owned);
        }
    }
}
