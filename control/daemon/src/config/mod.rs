//! The configuration: one TOML file, every key with a default.
//!
//! A key that is not known is an error, so that a misspelt limit is not taken for one that holds.

use std::path::{Path, PathBuf};

use pagelift_rpc::message::MAX_MESSAGE_BYTES;
use pagelift_rpc::types::Uuid;
use serde::Deserialize;

mod sections;

pub use sections::{Host, Keepalive, Limits, Migration, Paths, Qemu, Tcp, Tls, Unix};

/// Where the daemon looks for its configuration if it is not told.
pub const DEFAULT_PATH: &str = "/etc/pagelift/pageliftd.toml";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, or has a key that is not known, or a value of another type.
    #[error("{}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value is out of its range, or does not go with another.
    #[error("{key}: {why}")]
    Value {
        /// The key.
        key: &'static str,
        /// Why.
        why: String,
    },
}

/// All of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where things are kept.
    pub paths: Paths,
    /// The sockets on this host.
    pub unix: Unix,
    /// TCP without encryption.
    pub tcp: Tcp,
    /// TLS.
    pub tls: Tls,
    /// What clients may cost.
    pub limits: Limits,
    /// How dead clients are found.
    pub keepalive: Keepalive,
    /// What this host is called.
    pub host: Host,
    /// QEMU.
    pub qemu: Qemu,
    /// Moving guests.
    pub migration: Migration,
}

impl Config {
    /// The configuration in the file `path`.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        config.check()?;
        Ok(config)
    }

    /// The socket for clients that may change things.
    pub fn socket(&self) -> PathBuf {
        let own = self.unix.socket.clone();
        own.unwrap_or_else(|| self.paths.run.join("pageliftd-sock"))
    }

    /// The socket for clients that may only look.
    pub fn read_only_socket(&self) -> PathBuf {
        let own = self.unix.read_only_socket.clone();
        own.unwrap_or_else(|| self.paths.run.join("pageliftd-sock-ro"))
    }

    /// The host's UUID, if the configuration has one.
    ///
    /// # Errors
    /// When it is none.
    pub fn host_uuid(&self) -> Result<Option<Uuid>, ConfigError> {
        let parse = |text: &String| {
            text.parse().map_err(|error| ConfigError::Value {
                key: "host.uuid",
                why: format!("{text:?}: {error}"),
            })
        };
        self.host.uuid.as_ref().map(parse).transpose()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let value = |key, why: &str| {
            let why = why.to_owned();
            Err(ConfigError::Value { key, why })
        };
        let Limits {
            clients,
            unopened_clients,
            running_calls,
            message_bytes,
            ..
        } = self.limits;
        if let Some(open) = self.tcp.listen.iter().find(|a| !a.ip().is_loopback())
            && !self.tcp.beyond_loopback
        {
            let why = format!(
                "{open} is reachable from other hosts, and nothing tells who comes in; use tls, or \
                 set tcp.beyond_loopback = true"
            );
            return Err(ConfigError::Value {
                key: "tcp.listen",
                why,
            });
        }
        if running_calls < 2 {
            return value(
                "limits.running_calls",
                "a migration is asked after while it runs: at least 2",
            );
        }
        if clients == 0 || unopened_clients == 0 {
            return value("limits.clients", "nobody could connect");
        }
        if !(64 << 10..=MAX_MESSAGE_BYTES).contains(&message_bytes) {
            return value("limits.message_bytes", "65536 to 33554436");
        }
        self.host_uuid().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let config = parse("").unwrap();
        assert_eq!(config.socket(), Path::new("/run/pagelift/pageliftd-sock"));
        assert!(config.tcp.listen.is_empty() && config.tls.listen.is_empty());
        assert_eq!(config.limits.message_bytes, 33_554_436);
    }

    #[test]
    fn tcp_stays_on_this_host_unless_told() {
        for good in [
            "[tcp]\nlisten = [\"127.0.0.1:0\", \"[::1]:0\"]",
            "[tcp]\nlisten = [\"0.0.0.0:0\"]\nbeyond_loopback = true",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        let error = parse("[tcp]\nlisten = [\"0.0.0.0:16509\"]").unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("tcp.listen: 0.0.0.0:16509 is reachable"),
            "{error}"
        );
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for bad in [
            "[limits]\nclient = 5",
            "[limits]\nrunning_calls = 1",
            "[limits]\nclients = 0",
            "[limits]\nmessage_bytes = 33554437",
            "[host]\nuuid = \"x\"",
            "limits = 5",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
