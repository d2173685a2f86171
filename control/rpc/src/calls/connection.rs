//! Calls about the connection and the host.

use crate::declare::{procedures, xdr_structs};
use crate::types::Domain;
use crate::xdr::{Chars, FixedChars, List};

/// The bit of [`OpenArgs::flags`] with which a client promises to change nothing; others mean
/// nothing outside the client.
pub const OPEN_READ_ONLY: u32 = 1;

/// What [`SupportsFeature`] is asked for.
pub mod feature {
    /// The oldest migration protocol.
    pub const MIGRATION_V1: i32 = 1;
    /// The migration protocol with Prepare, Perform and Finish.
    pub const MIGRATION_V2: i32 = 3;
    /// Migration from daemon to daemon.
    pub const MIGRATION_P2P: i32 = 4;
    /// Migration by the hypervisor alone.
    pub const MIGRATION_DIRECT: i32 = 5;
    /// The migration protocol with five phases.
    pub const MIGRATION_V3: i32 = 6;
    /// A guest may be kept unchanged from Begin to Confirm.
    pub const CHANGE_PROTECTION: i32 = 7;
    /// File descriptors with calls.
    pub const FD_PASSING: i32 = 8;
    /// Strings as typed parameters.
    pub const TYPED_PARAM_STRING: i32 = 9;
    /// The keepalive program.
    pub const KEEPALIVE: i32 = 10;
    /// Descriptions that are fit to be sent to another host.
    pub const XML_MIGRATABLE: i32 = 11;
    /// Migration of guests that do not run.
    pub const MIGRATION_OFFLINE: i32 = 12;
    /// Migration with typed parameters.
    pub const MIGRATION_PARAMS: i32 = 13;
    /// Events by callback.
    pub const EVENT_CALLBACK: i32 = 14;
    /// The daemon can say why it closes a connection.
    pub const CLOSE_CALLBACK: i32 = 15;
    /// Arguments of network updates are in the documented order.
    pub const NETWORK_UPDATE_ORDER: i32 = 16;
}

xdr_structs! {
    /// Opens the connection to a driver.
    OpenArgs {
        /// The URI, without transport and host.
        name: Option<String>,
        /// See [`OPEN_READ_ONLY`].
        flags: u32,
    }

    /// What the host is like.
    NodeInfo {
        /// The processors' model or architecture.
        model: FixedChars<32>,
        /// In KiB.
        memory: u64,
        /// Processors.
        cpus: i32,
        /// Their frequency.
        mhz: i32,
        /// NUMA nodes.
        nodes: i32,
        /// Sockets of each.
        sockets: i32,
        /// Cores of each.
        cores: i32,
        /// Threads of each.
        threads: i32,
    }

    /// Asks for guests.
    ListAllDomainsArgs {
        /// 0 if only their number is asked for.
        need_results: i32,
        /// [`LIST_ACTIVE`], [`LIST_INACTIVE`] and other filters; 0 for all.
        flags: u32,
    }

    /// The guests.
    ListAllDomainsReply {
        /// Those that were asked for.
        domains: List<Domain, 16384>,
        /// How many there are.
        count: u32,
    }

    /// By what the host keeps guests apart.
    SecurityModel {
        /// The name of the model, with a NUL behind it.
        model: Chars<4097>,
        /// The domain of interpretation, likewise.
        doi: Chars<4097>,
    }

    /// Registers for events.
    EventRegisterArgs {
        /// Which: [`Event::ID`](crate::events::Event::ID).
        event_id: i32,
        /// Of which guest; of all if there is none.
        domain: Option<Domain>,
    }
}

/// Of [`ListAllDomainsArgs::flags`]: guests that run.
pub const LIST_ACTIVE: u32 = 1;
/// Of [`ListAllDomainsArgs::flags`]: guests that do not run.
pub const LIST_INACTIVE: u32 = 2;

procedures! {
    CONNECTION;

    /// Opens the connection to a driver.
    Open = 1, OpenArgs => ();
    /// Closes it; the daemon then closes the socket.
    Close = 2, () => ();
    /// The hypervisor's name.
    Type = 3, () => String;
    /// The hypervisor's version: major * 1000000 + minor * 1000 + micro.
    Version = 4, () => u64;
    /// What the host is like.
    GetNodeInfo = 6, () => NodeInfo;
    /// The host's capabilities as XML.
    Capabilities = 7, () => String;
    /// The host's name.
    Hostname = 59, () => String;
    /// Whether a [`feature`] is there: 1 or 0.
    SupportsFeature = 60, i32 => i32;
    /// How clients may authenticate: 0 is not at all.
    AuthList = 66, () => List<i32, 20>;
    /// The URI of the driver.
    Uri = 110, () => String;
    /// By what the host keeps guests apart.
    NodeSecurityModel = 122, () => SecurityModel;
    /// The version of the library: major * 1000000 + minor * 1000 + micro.
    LibVersion = 157, () => u64;
    /// The guests.
    ListAllDomains = 273, ListAllDomainsArgs => ListAllDomainsReply;
    /// Registers for events; the answer is the number of the callback.
    EventRegister = 316, EventRegisterArgs => i32;
    /// Ends a registration, by the number of the callback.
    EventDeregister = 317, i32 => ();
    /// The daemon is to say why it closes the connection.
    RegisterCloseCallback = 360, () => ();
    /// It need not any more.
    UnregisterCloseCallback = 361, () => ();
}
