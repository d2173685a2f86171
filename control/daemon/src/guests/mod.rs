//! The guests of this host: defined, started, ended, found again.
//!
//! | module | holds |
//! |---|---|
//! | `guest` | one guest: its state, and who may change it |
//! | `life` | starting, ending, pausing |
//! | `watch` | what its QEMU says, and its end |
//! | `recover` | what a daemon that comes back makes of what was kept |
//! | `filter` | which guests a client asks for |
//! | `errors` | errors about guests |
//!
//! A change of a guest is a *job*: one at a time, and others wait for it up to 30 seconds. Questions
//! need no job, and are answered while one runs.

pub(crate) mod errors;
mod filter;
mod guest;
mod life;
mod recover;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagelift_rpc::error::Error;
use pagelift_rpc::events::lifecycle;
use pagelift_rpc::types::Uuid;
use pagelift_v3::domain::Domain;
use tracing::error;

pub use guest::{Active, Ending, Guest, Inner, Job};
pub use life::StartFlags;

use crate::config::Config;
use crate::driver::qemu::{Machines, Start};
use crate::events::Events;
use crate::host::random_uuid;
use crate::store::{Store, StoreError};

/// All guests of this host.
#[derive(Debug)]
pub struct Guests {
    shared: Arc<Shared>,
    all: Mutex<BTreeMap<Uuid, Arc<Guest>>>,
}

/// What guests have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) events: Arc<Events>,
    pub(crate) store: Store,
    machines: Machines,
    next_id: AtomicU32,
}

impl Shared {
    /// A number that no guest had since the daemon started.
    fn take_id(&self) -> u32 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Where the sockets of a guest's QEMU are.
    fn start_of(&self, uuid: Uuid, incoming: bool) -> Start {
        Start {
            dir: self.config.paths.run.join("guests").join(uuid.to_string()),
            incoming,
        }
    }

    /// The program that runs a guest.
    fn emulator(&self, domain: &Domain) -> String {
        let own = domain.devices.emulator.clone();
        own.unwrap_or_else(|| self.config.qemu.emulator.display().to_string())
    }
}

impl Guests {
    /// Those that were kept, with the processes that are still there.
    ///
    /// # Errors
    /// When what was kept cannot be read.
    pub fn open(config: Config, events: Arc<Events>) -> Result<Arc<Self>, StoreError> {
        let shared = Arc::new(Shared {
            store: Store::open(&config.paths.state)?,
            config,
            events,
            machines: Machines::default(),
            next_id: AtomicU32::new(1),
        });
        let guests = Arc::new(Self {
            shared,
            all: Mutex::default(),
        });
        recover::recover(&guests)?;
        Ok(guests)
    }

    /// What outlives the daemon.
    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<Guest>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guests that `flags` of ListAllDomains asks for.
    pub fn list(&self, flags: u32) -> Vec<Arc<Guest>> {
        let all = self.all();
        let wanted = all
            .values()
            .filter(|guest| filter::takes(flags, &guest.inner()));
        wanted.cloned().collect()
    }

    /// The guest with this UUID; `name` is what else the client knows of it, for the error.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_uuid(&self, uuid: Uuid, name: Option<&str>) -> Result<Arc<Guest>, Error> {
        let found = self.all().get(&uuid).cloned();
        found.ok_or_else(|| {
            let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
            errors::no_guest(format!("no domain with matching uuid '{uuid}'{name}"))
        })
    }

    /// The guest with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_name(&self, name: &str) -> Result<Arc<Guest>, Error> {
        let found = self
            .all()
            .values()
            .find(|guest| guest.inner().name == name)
            .cloned();
        found.ok_or_else(|| errors::no_guest(format!("no domain with matching name '{name}'")))
    }

    /// The guest that runs under this number.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_id(&self, id: i32) -> Result<Arc<Guest>, Error> {
        let all = self.all();
        let found = all
            .values()
            .find(|guest| id > 0 && guest.wire().id == id)
            .cloned();
        found.ok_or_else(|| errors::no_guest(format!("no domain with matching id {id}")))
    }

    /// Reads a description, gives it a UUID if it has none, and its machine type a version.
    ///
    /// # Errors
    /// When it is none, or nothing that can be built here.
    pub fn describe(&self, xml: &str) -> Result<Domain, Error> {
        let fresh = random_uuid().map_err(errors::internal)?;
        let domain = Domain::parse_new(xml, fresh);
        let mut domain = domain.map_err(|error| errors::of_description(&error))?;
        let emulator = self.shared.emulator(&domain);
        domain.resolve_machine(|machine| self.shared.machines.resolve(&emulator, machine));
        let start = self.shared.start_of(domain.uuid, false);
        crate::driver::qemu::argv(&domain, &start).map_err(errors::unbuildable)?;
        Ok(domain)
    }

    /// As [`define`](Self::define), once the guest is bound to no migration.
    ///
    /// # Errors
    /// As there, and when the migration does not end within 30 seconds.
    pub fn define_for_client(&self, domain: Domain) -> Result<Arc<Guest>, Error> {
        loop {
            let all = self.all();
            let there = all.get(&domain.uuid).cloned();
            let Some(bound) = there.filter(|guest| guest.inner().migration.is_some()) else {
                return self.define_in(all, domain);
            };
            drop(all);
            drop(bound.begin("remoteDispatchDomainDefineXMLFlags")?);
        }
    }

    /// Defines a guest, or defines one anew.
    ///
    /// # Errors
    /// When another guest has its name or UUID, or it cannot be kept.
    pub fn define(&self, domain: Domain) -> Result<Arc<Guest>, Error> {
        self.define_in(self.all(), domain)
    }

    fn define_in(
        &self,
        mut all: MutexGuard<'_, BTreeMap<Uuid, Arc<Guest>>>,
        domain: Domain,
    ) -> Result<Arc<Guest>, Error> {
        let guest = self.room_for(&mut all, &domain)?;
        let mut inner = guest.inner();
        let event = match inner.definition {
            Some(_) => lifecycle::DEFINED_UPDATED,
            None => lifecycle::DEFINED_ADDED,
        };
        let before = inner.definition.replace(domain);
        if let Err(error) = guest.save(&inner) {
            inner.definition = before;
            let gone = inner.is_gone();
            drop(inner);
            if gone {
                all.remove(&guest.uuid());
            }
            return Err(error);
        }
        drop(inner);
        drop(all);
        self.shared.events.lifecycle(&guest.wire(), event);
        Ok(guest)
    }

    /// The guest of `domain`, which is made if there is none with its UUID.
    ///
    /// # Errors
    /// When another guest has its name, or this one another.
    fn room_for(
        &self,
        all: &mut BTreeMap<Uuid, Arc<Guest>>,
        domain: &Domain,
    ) -> Result<Arc<Guest>, Error> {
        let uuid = domain.uuid;
        let named = all.values().find(|guest| guest.inner().name == domain.name);
        if let Some(other) = named.filter(|other| other.uuid() != uuid) {
            let (name, uuid) = (&domain.name, other.uuid());
            return Err(errors::taken(format!(
                "domain '{name}' already exists with uuid {uuid}"
            )));
        }
        if let Some(guest) = all.get(&uuid) {
            let name = guest.inner().name.clone();
            if name != domain.name {
                let detail = format!("domain '{name}' is already defined with uuid {uuid}");
                return Err(errors::taken(detail));
            }
            return Ok(Arc::clone(guest));
        }
        let guest = Arc::new(Guest::new(
            uuid,
            domain.name.clone(),
            Arc::clone(&self.shared),
        ));
        all.insert(uuid, Arc::clone(&guest));
        Ok(guest)
    }

    /// The guest that is to be started from `domain` without a definition, and a job of it.
    ///
    /// # Errors
    /// When another guest has its name or UUID, or it runs.
    pub fn claim(&self, domain: &Domain, what: &'static str) -> Result<Job, Error> {
        let (guest, job) = loop {
            let guest = self.room_for(&mut self.all(), domain)?;
            let job = guest.begin(what)?;
            // It may have ended, and be another's now, while this waited for its job.
            let now = self.all().get(&guest.uuid()).cloned();
            if now.is_some_and(|now| Arc::ptr_eq(&now, &guest)) {
                break (guest, job);
            }
        };
        if guest.inner().active.is_some() {
            let detail = format!("domain '{}' is already active", domain.name);
            return Err(errors::invalid_here(detail));
        }
        Ok(job)
    }

    /// Removes the definition of a guest; one that runs does so until it ends.
    ///
    /// # Errors
    /// When it has none, or that cannot be kept.
    pub fn undefine(&self, guest: &Arc<Guest>) -> Result<(), Error> {
        let _job = guest.begin("remoteDispatchDomainUndefineFlags")?;
        let mut inner = guest.inner();
        let Some(definition) = inner.definition.take() else {
            return Err(errors::invalid("cannot undefine transient domain"));
        };
        if let Err(error) = guest.save(&inner) {
            inner.definition = Some(definition);
            return Err(error);
        }
        drop(inner);
        let wire = guest.wire();
        self.forget_if_gone(guest);
        self.shared
            .events
            .lifecycle(&wire, lifecycle::UNDEFINED_REMOVED);
        Ok(())
    }

    /// A guest that neither runs nor is defined is none any more.
    pub(crate) fn forget_if_gone(&self, guest: &Guest) {
        let mut all = self.all();
        if guest.inner().is_gone() {
            all.remove(&guest.uuid());
            if let Err(error) = self.shared.store.remove(&guest.uuid().to_string()) {
                error!(%error, "a guest that is gone is still kept");
            }
        }
    }
}
