//! `pagelift-send` and `pagelift-receive`: a QEMU guest moves, with pagelift carrying its RAM.
//!
//! Each is a command line, a job of the engine's, and a report.

mod receive;
mod send;

pub use receive::ReceiveCommand;
pub use send::SendCommand;

use anyhow::{Result, bail};
use pagelift_control::qmp::Address;
use pagelift_control::settle;
use pagelift_engine::migration::GuestLocation;
use pagelift_transports::Endpoint;

/// Where the guest is that no program of ours has touched: on the source, unless its QEMU shows that
/// a migration before has left it in doubt.
fn place_of(qmp: &Address) -> GuestLocation {
    match settle::Side::look(qmp) {
        Ok(side) if side.is_in_doubt() => GuestLocation::Unknown,
        _ => GuestLocation::Source,
    }
}

/// The endpoint as `--rdma-pin-all` wants it.
fn pinned(endpoint: &Endpoint, pin_all: bool) -> Result<Endpoint> {
    match endpoint {
        Endpoint::Rdma { .. } if pin_all => Ok(endpoint.clone().pinning_all()),
        _ if pin_all => bail!("--rdma-pin-all takes an address rdma://HOST:PORT"),
        _ => Ok(endpoint.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rdma_pins() {
        let endpoint = |text: &str| text.parse::<Endpoint>().unwrap();
        let rdma = pinned(&endpoint("rdma://host:1"), true).unwrap();
        assert_eq!(rdma, endpoint("rdma://host:1?pin-all"));
        assert!(pinned(&endpoint("tcp://host:1"), true).is_err());
        let tcp = endpoint("tcp://host:1");
        assert_eq!(pinned(&tcp, false).unwrap(), tcp);
    }
}
