//! One guest: its state, and who may change it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pagelift_rpc::calls::state;
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::types::{Domain as Wire, NO_ID, Uuid};
use pagelift_v3::domain::{Domain, Flavour};

use super::{Shared, errors};
use crate::driver::qemu::Qemu;
use crate::store::{LiveRecord, MigrationRecord, Record};

/// How long a job waits for another one.
const JOB_PATIENCE: Duration = Duration::from_secs(30);

/// How often a job that waits for the end of a migration looks for it.
const MIGRATION_POLL: Duration = Duration::from_millis(100);

/// Whether a job may be done while the guest is bound to a migration: what ends or pauses it, and what the
/// migration does itself. The rest would make another guest of it than the one that is described to the
/// target.
fn is_beside_migration(what: &str) -> bool {
    let own = what.starts_with("remoteDispatchDomainMigrate");
    own || matches!(
        what,
        "remoteDispatchDomainDestroy"
            | "remoteDispatchDomainShutdown"
            | "remoteDispatchDomainSuspend"
            | "remoteDispatchDomainResume"
    )
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    uuid: Uuid,
    pub(super) shared: Arc<Shared>,
    inner: Mutex<Inner>,
    /// Its process has come or gone.
    pub(super) changed: Condvar,
    job: Mutex<Option<&'static str>>,
    job_ended: Condvar,
}

/// What a guest is at the moment.
#[derive(Debug)]
pub struct Inner {
    /// Its name.
    pub name: String,
    /// Its definition, if it has one.
    pub definition: Option<Domain>,
    /// Its process, while it has one.
    pub active: Option<Active>,
    /// Its state and the reason: [`state`].
    pub state: (i32, i32),
    /// Whether it is started with the daemon.
    pub autostart: bool,
    /// The migration that it is bound to, if it is.
    pub migration: Option<MigrationRecord>,
}

/// What a guest has while it runs.
#[derive(Clone, Debug)]
pub struct Active {
    /// What runs.
    pub domain: Domain,
    /// What it runs in; `None` while that is being started, and while it is not reached.
    pub qemu: Option<Arc<Qemu>>,
    /// The state that it was in when it was last heard of, while its monitor does not answer a daemon that
    /// has come back.
    pub unreached: Option<(i32, i32)>,
    /// Why it ends, if that is decided.
    pub ending: Option<Ending>,
}

/// Why a guest's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest has shut down.
    Shutdown,
    /// Somebody wants it so.
    Destroyed,
    /// It runs elsewhere now.
    Migrated,
    /// It could not go on.
    Failed,
}

impl Inner {
    pub(super) const fn new(name: String) -> Self {
        Self {
            name,
            definition: None,
            active: None,
            state: state::SHUT_OFF_UNKNOWN,
            autostart: false,
            migration: None,
        }
    }

    /// Whether nothing is left of it.
    pub(super) const fn is_gone(&self) -> bool {
        self.definition.is_none() && self.active.is_none()
    }

    /// The process.
    ///
    /// # Errors
    /// When there is none, or it is not reached.
    pub fn qemu(&self) -> Result<Arc<Qemu>, Error> {
        if self.is_unreached() {
            return Err(errors::unreached());
        }
        let active = self.active.as_ref();
        active
            .and_then(|active| active.qemu.clone())
            .ok_or_else(errors::not_running)
    }

    /// Whether its monitor does not answer a daemon that has come back.
    pub fn is_unreached(&self) -> bool {
        let active = self.active.as_ref();
        active.is_some_and(|active| active.unreached.is_some())
    }

    /// What runs; if nothing does, what is defined.
    pub fn current(&self) -> Option<&Domain> {
        let active = self.active.as_ref().map(|active| &active.domain);
        active.or(self.definition.as_ref())
    }
}

/// The right to change a guest, until it is dropped.
#[derive(Debug)]
pub struct Job {
    guest: Arc<Guest>,
}

impl Job {
    /// The guest.
    pub const fn guest(&self) -> &Arc<Guest> {
        &self.guest
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        *self
            .guest
            .job
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        self.guest.job_ended.notify_one();
    }
}

impl Guest {
    pub(super) fn new(uuid: Uuid, name: String, shared: Arc<Shared>) -> Self {
        Self {
            uuid,
            shared,
            inner: Mutex::new(Inner::new(name)),
            changed: Condvar::new(),
            job: Mutex::new(None),
            job_ended: Condvar::new(),
        }
    }

    /// What it is known by.
    pub const fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// What it is at the moment.
    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until its process is reached; whether it was not gone by then.
    pub(crate) fn reached(&self) -> bool {
        let unreached = |inner: &mut Inner| inner.is_unreached();
        let waited = self.changed.wait_while(self.inner(), unreached);
        let inner = waited.unwrap_or_else(PoisonError::into_inner);
        inner.active.is_some()
    }

    /// How it is named on the wire.
    pub fn wire(&self) -> Wire {
        let inner = self.inner();
        let live = inner
            .active
            .as_ref()
            .and_then(|active| active.domain.live.as_ref());
        Wire {
            name: inner.name.clone(),
            uuid: self.uuid,
            id: live.map_or(NO_ID, |live| live.id.cast_signed()),
        }
    }

    /// Begins a job; `what` says which, to those that wait for its end in vain.
    ///
    /// # Errors
    /// When another job does not end within 30 seconds.
    pub fn begin(self: &Arc<Self>, what: &'static str) -> Result<Job, Error> {
        let deadline = Instant::now() + JOB_PATIENCE;
        let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        let moving = || {
            let bound = !is_beside_migration(what) && self.inner().migration.is_some();
            bound.then_some("remoteDispatchDomainMigratePerform3Params")
        };
        while let Some(other) = job.or_else(moving) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let detail = format!("cannot acquire state change lock (held by monitor={other})");
                return Err(Error::new(
                    ErrorCode::OperationTimeout,
                    ErrorDomain::None,
                    detail,
                ));
            }
            let waited = self.job_ended.wait_timeout(job, left.min(MIGRATION_POLL));
            job = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *job = Some(what);
        drop(job);
        Ok(Job {
            guest: Arc::clone(self),
        })
    }

    /// Keeps `inner`, which must be this guest's: it is on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn save(&self, inner: &Inner) -> Result<(), Error> {
        let uuid = self.uuid.to_string();
        let live = inner.active.as_ref().map(|active| LiveRecord {
            xml: active.domain.to_xml(Flavour::Live),
            id: active.domain.live.as_ref().map_or(0, |live| live.id),
            announced: active.qemu.is_some() || active.unreached.is_some(),
        });
        let record = Record {
            definition: inner
                .definition
                .as_ref()
                .map(|d| d.to_xml(Flavour::Inactive)),
            autostart: inner.autostart,
            live,
            state: inner
                .active
                .as_ref()
                .and_then(|active| active.unreached)
                .unwrap_or(inner.state),
            migration: inner.migration.clone(),
        };
        let store = &self.shared.store;
        let kept = if inner.is_gone() {
            store.remove(&uuid)
        } else {
            store.put(&uuid, &record)
        };
        kept.map_err(|error| errors::of_store(&error))
    }
}
