//! The daemon: what connections share.

use std::sync::Arc;

use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::events::Events;
use crate::guests::Guests;
use crate::host::{Host, HostError};
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

    /// The procedures.
    pub(crate) const fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }
}
