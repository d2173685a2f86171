//! Calls about the life of guests.

use crate::declare::{procedures, xdr_structs};
use crate::types::{Domain, Uuid};
use crate::xdr::{Chars, List};

xdr_structs! {
    /// A guest, and how.
    DomainFlagsArgs {
        /// The guest.
        domain: Domain,
        /// Depends on the procedure.
        flags: u32,
    }

    /// A description, and how.
    XmlFlagsArgs {
        /// The description.
        xml: String,
        /// Depends on the procedure.
        flags: u32,
    }

    /// What a guest has, and has used.
    DomainInfo {
        /// See [`state`].
        state: u32,
        /// The most memory that it may have, in KiB.
        max_memory: u64,
        /// The memory that it has, in KiB.
        memory: u64,
        /// Its vCPUs.
        vcpus: u32,
        /// The processor time that it has used, in nanoseconds.
        cpu_time: u64,
    }

    /// The state of a guest.
    DomainState {
        /// See [`state`].
        state: i32,
        /// Why.
        reason: i32,
    }

    /// What keeps a guest apart from others.
    SecurityLabel {
        /// The label, with a NUL behind it.
        label: Chars<4097>,
        /// Whether it is enforced.
        enforcing: i32,
    }

    /// A guest, and whether it is started with the daemon.
    AutostartArgs {
        /// The guest.
        domain: Domain,
        /// 1 or 0.
        autostart: i32,
    }

    /// A guest, and the memory that it is to have.
    SetMemoryFlagsArgs {
        /// The guest.
        domain: Domain,
        /// In KiB.
        memory: u64,
        /// Of the guest that runs (1), of its definition (2).
        flags: u32,
    }
}

/// State and reason of [`DomainState`], as pairs.
pub mod state {
    /// Not known: it is there, and cannot be asked.
    pub const UNKNOWN: (i32, i32) = (0, 0);
    /// Started here.
    pub const RUNNING_BOOTED: (i32, i32) = (1, 1);
    /// Came from another host.
    pub const RUNNING_MIGRATED: (i32, i32) = (1, 2);
    /// Was paused and resumed.
    pub const RUNNING_UNPAUSED: (i32, i32) = (1, 5);
    /// Was to move, and did not.
    pub const RUNNING_MIGRATION_CANCELED: (i32, i32) = (1, 6);
    /// Paused, and it is not known why.
    pub const PAUSED_UNKNOWN: (i32, i32) = (3, 0);
    /// Paused on request.
    pub const PAUSED_USER: (i32, i32) = (3, 1);
    /// Paused because it moves.
    pub const PAUSED_MIGRATION: (i32, i32) = (3, 2);
    /// Paused because a disk failed.
    pub const PAUSED_IO_ERROR: (i32, i32) = (3, 5);
    /// Paused while it is started.
    pub const PAUSED_STARTING_UP: (i32, i32) = (3, 11);
    /// Never ran, as far as the daemon knows.
    pub const SHUT_OFF_UNKNOWN: (i32, i32) = (5, 0);
    /// Shut itself down.
    pub const SHUT_OFF_SHUTDOWN: (i32, i32) = (5, 1);
    /// Was destroyed.
    pub const SHUT_OFF_DESTROYED: (i32, i32) = (5, 2);
    /// Its process crashed.
    pub const SHUT_OFF_CRASHED: (i32, i32) = (5, 3);
    /// Moved to another host.
    pub const SHUT_OFF_MIGRATED: (i32, i32) = (5, 4);
    /// Could not be started.
    pub const SHUT_OFF_FAILED: (i32, i32) = (5, 6);
    /// Its process was gone when the daemon started.
    pub const SHUT_OFF_DAEMON: (i32, i32) = (5, 8);
}

procedures! {
    DOMAIN;

    /// Starts a guest that is defined.
    DomainCreate = 9, Domain => ();
    /// Starts a guest from a description, which is forgotten when it ends.
    DomainCreateXml = 10, XmlFlagsArgs => Domain;
    /// Defines a guest.
    DomainDefineXml = 11, String => Domain;
    /// Ends a guest at once.
    DomainDestroy = 12, Domain => ();
    /// The description of a guest.
    DomainGetXmlDesc = 14, DomainFlagsArgs => String;
    /// Whether a guest is started with the daemon: 1 or 0.
    DomainGetAutostart = 15, Domain => i32;
    /// What a guest has, and has used.
    DomainGetInfo = 16, Domain => DomainInfo;
    /// What runs in a guest: `hvm`.
    DomainGetOsType = 19, Domain => String;
    /// The guest with this number.
    DomainLookupById = 22, i32 => Domain;
    /// The guest with this name.
    DomainLookupByName = 23, String => Domain;
    /// The guest with this UUID.
    DomainLookupByUuid = 24, Uuid => Domain;
    /// Lets a guest run on.
    DomainResume = 28, Domain => ();
    /// Says whether a guest is to be started with the daemon.
    DomainSetAutostart = 29, AutostartArgs => ();
    /// Asks a guest to shut down.
    DomainShutdown = 33, Domain => ();
    /// Pauses a guest.
    DomainSuspend = 34, Domain => ();
    /// Removes the definition of a guest.
    DomainUndefine = 35, Domain => ();
    /// What keeps a guest apart from others.
    DomainGetSecurityLabel = 121, Domain => SecurityLabel;
    /// Whether a guest runs: 1 or 0.
    DomainIsActive = 150, Domain => i32;
    /// Whether a guest is defined: 1 or 0.
    DomainIsPersistent = 151, Domain => i32;
    /// Whether the state of a guest was saved: 1 or 0.
    DomainHasManagedSave = 183, DomainFlagsArgs => i32;
    /// How many snapshots a guest has.
    DomainSnapshotNum = 187, DomainFlagsArgs => i32;
    /// Starts a guest that is defined; 1 paused.
    DomainCreateWithFlags = 196, DomainFlagsArgs => Domain;
    /// Changes the memory of a guest.
    DomainSetMemoryFlags = 204, SetMemoryFlagsArgs => ();
    /// The state of a guest.
    DomainGetState = 212, DomainFlagsArgs => DomainState;
    /// Removes the definition of a guest.
    DomainUndefineFlags = 231, DomainFlagsArgs => ();
    /// Ends a guest at once.
    DomainDestroyFlags = 234, DomainFlagsArgs => ();
    /// Asks a guest to shut down.
    DomainShutdownFlags = 258, DomainFlagsArgs => ();
    /// Defines a guest.
    DomainDefineXmlFlags = 350, XmlFlagsArgs => Domain;
    /// What a person should know of a guest.
    DomainGetMessages = 426, DomainFlagsArgs => List<String, 2048>;
    /// Whether a guest is started once with the daemon: 1 or 0.
    DomainGetAutostartOnce = 449, Domain => i32;
}
