//! Ports that guests come in by.

use std::io;
use std::net::{IpAddr, TcpListener};

/// libvirt's ports.
const PORTS: std::ops::RangeInclusive<u16> = 49152..=49215;

/// Listens at the first of the ports that nobody has, so that nobody else takes it until QEMU listens there.
/// QEMU cannot be given a socket that listens, and tries a port once only.
///
/// # Errors
/// When all are in use, or the address is none of this host.
pub(super) fn take(address: IpAddr) -> io::Result<(u16, TcpListener)> {
    let mut all = PORTS.map(|port| Ok((port, TcpListener::bind((address, port))?)));
    all.find(|taken: &io::Result<_>| match taken {
        Err(error) => error.kind() != io::ErrorKind::AddrInUse,
        Ok(_) => true,
    })
    .unwrap_or_else(|| Err(io::ErrorKind::AddrInUse.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_once() {
        let address = IpAddr::from([127, 0, 0, 1]);
        let (first, _holds_it) = take(address).unwrap();
        let (second, _) = take(address).unwrap();
        assert_ne!(first, second);
        assert!(PORTS.contains(&first) && PORTS.contains(&second));
        assert!(
            take(IpAddr::from([192, 0, 2, 1])).is_err(),
            "not of this host"
        );
    }
}
