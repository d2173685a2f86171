//! Events: messages that a client gets for a callback that it registered.

use crate::declare::xdr_structs;
use crate::params::Params;
use crate::types::Domain;
use crate::xdr::Xdr;

/// The body of an event.
pub trait Event: Xdr {
    /// The number of its message, which stands where calls have their procedure's.
    const NUMBER: i32;
    /// What clients register for (`eventID` of [`EventRegister`](crate::calls::EventRegister)).
    const ID: i32;
}

xdr_structs! {
    /// The life of a guest has changed.
    Lifecycle {
        /// The number that the registration was answered with.
        callback_id: i32,
        /// The guest.
        domain: Domain,
        /// What happened: one of [`lifecycle`].
        event: i32,
        /// Why.
        detail: i32,
    }

    /// A migration has begun another round.
    MigrationIteration {
        /// The number that the registration was answered with.
        callback_id: i32,
        /// The guest.
        domain: Domain,
        /// The round; the first is 1.
        iteration: i32,
    }

    /// A job has ended well.
    JobCompleted {
        /// The number that the registration was answered with.
        callback_id: i32,
        /// The guest.
        domain: Domain,
        /// The job's statistics.
        params: Params,
    }
}

impl Event for Lifecycle {
    const NUMBER: i32 = 318;
    const ID: i32 = 0;
}

impl Event for MigrationIteration {
    const NUMBER: i32 = 359;
    const ID: i32 = 20;
}

impl Event for JobCompleted {
    const NUMBER: i32 = 363;
    const ID: i32 = 21;
}

/// Event and detail of [`Lifecycle`], as pairs.
pub mod lifecycle {
    /// A definition was added.
    pub const DEFINED_ADDED: (i32, i32) = (0, 0);
    /// A definition was replaced.
    pub const DEFINED_UPDATED: (i32, i32) = (0, 1);
    /// The definition was removed.
    pub const UNDEFINED_REMOVED: (i32, i32) = (1, 0);
    /// The guest was started.
    pub const STARTED_BOOTED: (i32, i32) = (2, 0);
    /// A guest that comes from another host has a process here.
    pub const STARTED_MIGRATED: (i32, i32) = (2, 1);
    /// The guest was paused on request.
    pub const SUSPENDED_PAUSED: (i32, i32) = (3, 0);
    /// The guest was paused because it moves.
    pub const SUSPENDED_MIGRATED: (i32, i32) = (3, 1);
    /// The guest runs again on request.
    pub const RESUMED_UNPAUSED: (i32, i32) = (4, 0);
    /// The guest runs after it has moved.
    pub const RESUMED_MIGRATED: (i32, i32) = (4, 1);
    /// The guest has shut itself down.
    pub const STOPPED_SHUTDOWN: (i32, i32) = (5, 0);
    /// The guest was destroyed.
    pub const STOPPED_DESTROYED: (i32, i32) = (5, 1);
    /// The guest's process has crashed.
    pub const STOPPED_CRASHED: (i32, i32) = (5, 2);
    /// The guest has moved to another host.
    pub const STOPPED_MIGRATED: (i32, i32) = (5, 3);
    /// The guest could not go on.
    pub const STOPPED_FAILED: (i32, i32) = (5, 5);
    /// The guest has powered off.
    pub const SHUTDOWN_FINISHED: (i32, i32) = (6, 0);
    /// The guest has powered off by itself.
    pub const SHUTDOWN_GUEST: (i32, i32) = (6, 1);
    /// The host has ended the guest.
    pub const SHUTDOWN_HOST: (i32, i32) = (6, 2);
}

/// The number under which a recoding of an event's body is to be found.
pub(crate) const TABLE: &[crate::calls::Entry] = &[
    crate::calls::Entry::of_event::<Lifecycle>(),
    crate::calls::Entry::of_event::<MigrationIteration>(),
    crate::calls::Entry::of_event::<JobCompleted>(),
];
