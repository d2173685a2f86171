//! This host: its name, its UUID, its processors and memory.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use pagelift_rpc::calls::NodeInfo;
use pagelift_rpc::types::Uuid;
use pagelift_rpc::xdr::FixedChars;

use crate::config::{Config, ConfigError};

/// The host, as other hosts know it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// What tells it from others: a guest does not move to a host with the same.
    pub uuid: Uuid,
}

/// Why it cannot be found out.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The configuration has something else than a UUID.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file with the UUID cannot be read or made.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl Host {
    /// By the configuration; a UUID that it does not have is made once and kept.
    ///
    /// # Errors
    /// When the UUID cannot be read or kept.
    pub fn new(config: &Config) -> Result<Self, HostError> {
        let system = rustix::system::uname();
        let name = config.host.name.clone();
        let name = name.unwrap_or_else(|| system.nodename().to_string_lossy().into_owned());
        let uuid = match config.host_uuid()? {
            Some(uuid) => uuid,
            None => kept(&config.paths.state)?,
        };
        Ok(Self { name, uuid })
    }
}

/// The UUID in the state directory.
fn kept(state: &Path) -> Result<Uuid, HostError> {
    let path = state.join("host-uuid");
    let failed = |source| HostError::File {
        path: path.display().to_string(),
        source,
    };
    match fs::read_to_string(&path) {
        Ok(text) => {
            let uuid = text.trim().parse();
            uuid.map_err(|error| failed(io::Error::other(error)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let uuid = random_uuid().map_err(failed)?;
            fs::create_dir_all(state).map_err(failed)?;
            let new = path.with_extension("new");
            let mut file = fs::File::create(&new).map_err(failed)?;
            writeln!(file, "{uuid}").map_err(failed)?;
            file.sync_all().map_err(failed)?;
            fs::rename(&new, &path).map_err(failed)?;
            Ok(uuid)
        }
        Err(error) => Err(failed(error)),
    }
}

/// A random UUID (RFC 9562, version 4).
///
/// # Errors
/// When the system gives no random numbers.
pub fn random_uuid() -> io::Result<Uuid> {
    let mut uuid = [0; 16];
    let got = rustix::rand::getrandom(&mut uuid, rustix::rand::GetRandomFlags::empty())?;
    if got < uuid.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(Uuid(uuid))
}

/// Processors and memory.
pub fn node_info() -> NodeInfo {
    let system = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = i32::try_from(cpus).unwrap_or(i32::MAX);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let memory = memory.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
    let mhz = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mhz = mhz.lines().find_map(|line| line.strip_prefix("cpu MHz"));
    let mhz = mhz.and_then(|rest| {
        rest.trim_start_matches([' ', '\t', ':'])
            .parse::<f64>()
            .ok()
    });
    NodeInfo {
        model: FixedChars::padded(&system.machine().to_string_lossy()),
        memory: memory.unwrap_or_default(),
        cpus,
        mhz: mhz.unwrap_or_default() as i32,
        nodes: 1,
        sockets: 1,
        cores: cpus,
        threads: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = kept(&state).unwrap();
        assert_eq!(kept(&state).unwrap(), first);
        assert_eq!(first.to_string().as_bytes()[14], b'4');
        fs::write(state.join("host-uuid"), "no uuid").unwrap();
        assert!(kept(&state).is_err());
    }

    #[test]
    fn the_host_has_processors_and_memory() {
        let info = node_info();
        assert!(info.cpus > 0 && info.memory > 0);
    }
}
