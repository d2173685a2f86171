//! Moving guests to and from other hosts, by libvirt's protocol.
//!
//! | module | holds |
//! |---|---|
//! | `source` | Begin, Perform, Confirm; `settle`: what is done when the order of calls is broken |
//! | `target` | Prepare, Finish |
//! | `peer` | all phases by this daemon, and the question to a target |
//! | `client` | a connection to another daemon |
//! | `job` | progress and results, as clients see them |
//! | `calls` | the procedures |
//! | `ports` | ports that guests come in by |
//! | `recover` | what a daemon that comes back makes of migrations |
//!
//! The order of calls, and what becomes of a guest when it is broken, is in `pagelift_v3::phase`: here
//! its actions are carried out.

pub(crate) mod calls;
mod client;
mod job;
mod peer;
mod ports;
mod recover;
mod settle;
mod source;
mod target;

pub use recover::recover;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagelift_rpc::types::Uuid;
use tracing::error;

use crate::driver::qemu::native::Settings;
use crate::store::{REMEMBERED, Store, StoreError};
use job::JobRecord;
use source::Outgoing;
use target::Incoming;

/// The migrations of this host.
#[derive(Debug, Default)]
pub struct Migrations {
    outgoing: Mutex<HashMap<Uuid, Arc<Outgoing>>>,
    incoming: Mutex<HashMap<Uuid, Arc<Incoming>>>,
    settings: Mutex<HashMap<Uuid, Settings>>,
    completed: Mutex<HashMap<Uuid, JobRecord>>,
    /// Numbers of migrations that brought a guest here, whatever has become of it since.
    arrived: Mutex<VecDeque<Uuid>>,
}

/// The lock of something that is whole whenever it is unlocked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Migrations {
    fn outgoing(&self, guest: Uuid) -> Option<Arc<Outgoing>> {
        lock(&self.outgoing).get(&guest).cloned()
    }

    fn settings(&self, guest: Uuid) -> Settings {
        lock(&self.settings)
            .get(&guest)
            .copied()
            .unwrap_or_default()
    }

    fn set(&self, guest: Uuid, change: impl FnOnce(&mut Settings)) {
        change(lock(&self.settings).entry(guest).or_default());
    }

    /// With the migrations that have brought guests here before.
    ///
    /// # Errors
    /// When what was kept of them cannot be read.
    pub(crate) fn open(store: &Store) -> Result<Self, StoreError> {
        let arrived = store.all_arrived()?;
        let arrived = arrived.iter().filter_map(|id| id.parse().ok()).collect();
        Ok(Self {
            arrived: Mutex::new(arrived),
            ..Self::default()
        })
    }

    /// The migration `id` has brought a guest here, which is on the disk when this returns.
    fn remember(&self, store: &Store, id: Uuid) {
        if let Err(error) = store.arrived(&id.to_string()) {
            error!(%error, %id, "the next daemon will not know of a guest that arrived");
        }
        let mut arrived = lock(&self.arrived);
        if arrived.len() == REMEMBERED {
            arrived.pop_front();
        }
        arrived.push_back(id);
    }
}
