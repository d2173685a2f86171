//! The sections of the file, with their defaults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pagelift_rpc::message::MAX_MESSAGE_BYTES;
use serde::Deserialize;

/// Directories.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// What outlives a reboot: definitions of guests.
    pub state: PathBuf,
    /// What does not: sockets of guests.
    pub run: PathBuf,
    /// What guests' processes print.
    pub log: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            state: "/var/lib/pagelift".into(),
            run: "/run/pagelift".into(),
            log: "/var/log/pagelift".into(),
        }
    }
}

/// The sockets on this host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unix {
    /// For clients that may change things. Default: `pageliftd-sock` in `paths.run`.
    pub socket: Option<PathBuf>,
    /// For clients that may only look. Default: `pageliftd-sock-ro` in `paths.run`.
    pub read_only_socket: Option<PathBuf>,
    /// User ids that may use `socket`, beside root and the daemon's own.
    pub allowed_uids: Vec<u32>,
}

/// TCP without encryption: whoever reaches it is root.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tcp {
    /// Addresses with port to listen at; none by default. libvirt's port is 16509.
    pub listen: Vec<SocketAddr>,
    /// Whether addresses other than loopback are allowed.
    pub beyond_loopback: bool,
}

/// TLS: clients show a certificate of the authority's.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Addresses with port to listen at; none by default. libvirt's port is 16514.
    pub listen: Vec<SocketAddr>,
    /// Certificates of the authorities that clients' certificates are signed by.
    pub ca_certificate: PathBuf,
    /// This host's certificate.
    pub certificate: PathBuf,
    /// Its key; nobody but the owner and the group may read it.
    pub key: PathBuf,
    /// Certificates that were revoked; looked at if the file is there.
    pub revoked: PathBuf,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            ca_certificate: "/etc/pki/CA/cacert.pem".into(),
            certificate: "/etc/pki/libvirt/servercert.pem".into(),
            key: "/etc/pki/libvirt/private/serverkey.pem".into(),
            revoked: "/etc/pki/CA/cacrl.pem".into(),
        }
    }
}

/// What clients may cost.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at the same time; by the read-only socket at most half of them.
    pub clients: usize,
    /// Of these, connections that have not opened a driver yet; those of the read-only socket are counted
    /// apart.
    pub unopened_clients: usize,
    /// Seconds that a connection has to open a driver, TLS handshake included.
    pub open_seconds: u64,
    /// Calls of one connection that run at the same time; at least 2.
    pub running_calls: usize,
    /// Calls of one connection that wait; then nothing more is read from it.
    pub waiting_calls: usize,
    /// Bytes of a message, its length included; at most 33554436.
    pub message_bytes: usize,
    /// Bytes that all connections together may hold of messages: those that are not whole yet, calls that
    /// wait or run, and answers and events that are not sent. The read-only socket's may hold half of it.
    pub memory_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 120,
            unopened_clients: 20,
            open_seconds: 30,
            running_calls: 5,
            waiting_calls: 64,
            message_bytes: MAX_MESSAGE_BYTES,
            memory_bytes: 256 << 20,
        }
    }
}

/// How dead clients are found: those that can be asked are asked when they are silent.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keepalive {
    /// Seconds of silence before a client is asked; 0 to never ask.
    pub interval_seconds: u64,
    /// Questions without an answer after which the connection is closed.
    pub count: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            interval_seconds: 5,
            count: 5,
        }
    }
}

impl Keepalive {
    /// The silence before a client is asked, if it is.
    pub fn interval(&self) -> Option<Duration> {
        (self.interval_seconds > 0).then(|| Duration::from_secs(self.interval_seconds))
    }
}

/// What this host is called.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// The name that other hosts know it by. Default: the system's.
    pub name: Option<String>,
    /// What tells it from other hosts. Default: made once, and kept in `paths.state`.
    pub uuid: Option<String>,
}

/// QEMU.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Qemu {
    /// The program for guests whose description names none.
    pub emulator: PathBuf,
}

impl Default for Qemu {
    fn default() -> Self {
        Self {
            emulator: "/usr/bin/qemu-system-x86_64".into(),
        }
    }
}

/// Moving guests to and from other hosts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Migration {
    /// What guests that come in are sent to: a name or an address of this host that others can reach.
    /// Default: `host.name`.
    pub address: Option<String>,
    /// The address that guests come in by, if the client does not say one. Default: all.
    pub listen: Option<String>,
    /// Where other daemons can ask this one what has become of a guest. Default: the first address of
    /// `tcp.listen` that is no loopback address.
    pub uri: Option<String>,
    /// Directories that other hosts see as well, beside network file systems.
    pub shared_directories: Vec<PathBuf>,
}
