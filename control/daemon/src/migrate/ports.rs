//! Ports that guests come in by.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Mutex;

use super::lock;

/// libvirt's ports.
const PORTS: std::ops::RangeInclusive<u16> = 49152..=49215;

/// The ports that are in use by this daemon.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<BTreeSet<u16>>);

impl Ports {
    /// A port that nobody listens at, and that no other migration gets until it is given back.
    pub(super) fn take(&self) -> Option<u16> {
        let mut taken = lock(&self.0);
        let free = PORTS.into_iter().find(|port| {
            !taken.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok()
        })?;
        taken.insert(free);
        Some(free)
    }

    /// Gives a port back.
    pub(super) fn give_back(&self, port: u16) {
        lock(&self.0).remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once() {
        let ports = Ports::default();
        let first = ports.take().unwrap();
        let second = ports.take().unwrap();
        assert_ne!(first, second);
        assert!(PORTS.contains(&second));
        let _busy = TcpListener::bind(("127.0.0.1", first));
        ports.give_back(second);
        assert_eq!(ports.take(), Some(second));
    }
}
