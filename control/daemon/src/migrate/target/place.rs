//! Where a guest is to arrive.

use std::net::{IpAddr, Ipv6Addr, TcpListener};

use pagelift_v3::params::{MigrateUri, Param, Request};

use crate::daemon::Daemon;
use crate::dispatch::Answer;
use crate::guests::errors;
use crate::migrate::ports;

/// Where a guest is to arrive.
#[derive(Debug)]
pub(super) struct Place {
    /// What QEMU listens at.
    pub(super) listen: String,
    /// What the source is told, where it does not know.
    pub(super) told: Option<String>,
    /// Keeps a port that was chosen here until QEMU takes it.
    pub(super) held: Option<TcpListener>,
}

impl Place {
    /// As the client has said, or as it is configured.
    pub(super) fn of(daemon: &Daemon, request: &Request) -> Answer<Self> {
        let address = request
            .options
            .get(Param::LISTEN_ADDRESS)
            .map(str::to_owned);
        let address = address.or_else(|| daemon.config().migration.listen.clone());
        let address = address.unwrap_or_else(|| {
            let dual = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
            if dual { "::" } else { "0.0.0.0" }.to_owned()
        });
        let at = |port: u16| match address.contains(':') {
            true => format!("tcp:[{address}]:{port}"),
            false => format!("tcp:{address}:{port}"),
        };
        let named = match &request.uri {
            Some(MigrateUri::Unix(path)) => Some(format!("unix:{path}")),
            Some(MigrateUri::Tcp {
                port: Some(port), ..
            }) => Some(at(*port)),
            _ => None,
        };
        if let Some(listen) = named {
            let (told, held) = (None, None);
            return Ok(Self { listen, told, held });
        }
        let ip: IpAddr = address
            .parse()
            .map_err(|_| errors::internal(format!("'{address}' is not an address of this host")))?;
        let (port, socket) = ports::take(ip).map_err(|error| {
            errors::internal(format!(
                "Unable to find an unused port in range 'migration' (49152-49215): {error}"
            ))
        })?;
        let told = match &request.uri {
            Some(uri) => uri.with_port(port).to_string(),
            None => format!("tcp:{}:{port}", daemon.migration_address()),
        };
        Ok(Self {
            listen: at(port),
            told: Some(told),
            held: Some(socket),
        })
    }
}
