//! The daemon: what connections share.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tracing::warn;

use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::events::Events;
use crate::guests::Guests;
use crate::host::{Host, HostError};
use crate::migrate::Migrations;
use crate::store::StoreError;

/// Why a daemon cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// It is not known what host this is.
    #[error(transparent)]
    Host(#[from] HostError),
    /// What was kept cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What connections share.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    host: Host,
    events: Arc<Events>,
    guests: Arc<Guests>,
    migrations: Migrations,
    dispatcher: Dispatcher,
}

impl Daemon {
    /// As the configuration says, with the guests that were kept.
    ///
    /// # Errors
    /// When it cannot be found out what host this is, or what was kept cannot be read.
    pub fn new(config: Config) -> Result<Self, DaemonError> {
        let host = Host::new(&config)?;
        let events = Arc::new(Events::default());
        let guests = Guests::open(config.clone(), Arc::clone(&events))?;
        let daemon = Self {
            migrations: Migrations::open(guests.store())?,
            guests,
            host,
            config,
            events,
            dispatcher: Dispatcher::new(),
        };
        if daemon.own_uri().is_none() {
            warn!(
                "other hosts cannot ask this one what has become of a guest that they sent, and may have \
                 to hold it paused: set migration.uri"
            );
        }
        Ok(daemon)
    }

    /// The configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// This host.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Who wants to hear of what.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The guests of this host.
    pub const fn guests(&self) -> &Arc<Guests> {
        &self.guests
    }

    /// The migrations of these guests.
    pub const fn migrations(&self) -> &Migrations {
        &self.migrations
    }

    /// What guests that come in are sent to: a name or an address of this host.
    pub(crate) fn migration_address(&self) -> &str {
        let own = self.config.migration.address.as_deref();
        own.unwrap_or(&self.host.name)
    }

    /// Where other daemons can ask this one, if they can. An address that means another host to each host
    /// is never told, unless it is configured.
    pub(crate) fn own_uri(&self) -> Option<String> {
        let own = self.config.migration.uri.clone();
        own.or_else(|| {
            let told = |address: &&SocketAddr| address.port() != 0 && !address.ip().is_loopback();
            let tcp = self.config.tcp.listen.iter().find(told)?;
            if !tcp.ip().is_unspecified() {
                return Some(format!("qemu+tcp://{tcp}/system"));
            }
            let address = self.migration_address();
            let host = match address.parse::<IpAddr>() {
                Ok(ip) if ip.is_loopback() || ip.is_unspecified() => return None,
                Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
                Ok(IpAddr::V4(ip)) => ip.to_string(),
                Err(_) if address == "localhost" || address.starts_with("localhost.") => {
                    return None;
                }
                Err(_) => address.to_owned(),
            };
            Some(format!("qemu+tcp://{host}:{}/system", tcp.port()))
        })
    }

    /// The procedures.
    pub(crate) const fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(more: &str) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let file = dir.path().join("pageliftd.toml");
        let text = format!("[paths]\nstate = \"{at}/state\"\nrun = \"{at}/run\"\n{more}");
        std::fs::write(&file, text).unwrap();
        let daemon = Daemon::new(Config::load(&file).unwrap()).unwrap();
        daemon.own_uri()
    }

    #[test]
    fn another_host_is_never_sent_to_itself() {
        let tcp = |listen: &str, address: &str| {
            told(&format!(
                "[tcp]\nlisten = [{listen}]\nbeyond_loopback = true\n[migration]\naddress = \"{address}\"\n"
            ))
        };
        assert_eq!(told(""), None);
        assert_eq!(tcp("\"127.0.0.1:16509\"", "host1"), None);
        assert_eq!(tcp("\"[::1]:16509\"", "host1"), None);
        for own in ["127.0.0.1", "::1", "0.0.0.0", "::", "localhost"] {
            assert_eq!(tcp("\"0.0.0.0:16509\"", own), None, "{own}");
        }
        let named = tcp("\"127.0.0.1:1\", \"0.0.0.0:16509\"", "host1");
        assert_eq!(named.as_deref(), Some("qemu+tcp://host1:16509/system"));
        let six = tcp("\"[::]:16509\"", "2001:db8::1");
        assert_eq!(
            six.as_deref(),
            Some("qemu+tcp://[2001:db8::1]:16509/system")
        );
        let one = tcp("\"192.0.2.1:16509\"", "127.0.0.1");
        assert_eq!(one.as_deref(), Some("qemu+tcp://192.0.2.1:16509/system"));
        let said = told("[migration]\nuri = \"qemu+tcp://127.0.0.1/system\"\n");
        assert_eq!(said.as_deref(), Some("qemu+tcp://127.0.0.1/system"));
    }
}
