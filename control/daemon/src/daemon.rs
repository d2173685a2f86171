//! The daemon: what connections share.

use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::host::{Host, HostError};

/// What connections share.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    host: Host,
    dispatcher: Dispatcher,
}

impl Daemon {
    /// As the configuration says.
    ///
    /// # Errors
    /// When it cannot be found out what host this is.
    pub fn new(config: Config) -> Result<Self, HostError> {
        Ok(Self {
            host: Host::new(&config)?,
            config,
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

    /// The procedures.
    pub(crate) const fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }
}
