//! The daemon: what connections share.

use std::sync::Arc;

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
        Ok(Self {
            guests: Guests::open(config.clone(), Arc::clone(&events))?,
            host,
            migrations: Migrations::default(),
            config,
            events,
            dispatcher: Dispatcher::new(),
        })
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

    /// Where other daemons can ask this one, if they can.
    pub(crate) fn own_uri(&self) -> Option<String> {
        let own = self.config.migration.uri.clone();
        own.or_else(|| {
            let listen = &self.config.tcp.listen;
            let tcp = listen.iter().find(|address| address.port() != 0)?;
            let port = tcp.port();
            Some(match tcp.ip().is_unspecified() {
                true => format!("qemu+tcp://{}:{port}/system", self.migration_address()),
                false => format!("qemu+tcp://{tcp}/system"),
            })
        })
    }

    /// The procedures.
    pub(crate) const fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }
}
