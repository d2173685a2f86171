//! The transports of pagelift.
//!
//! A transport implements the engine's [`Link`](pagelift_engine::transport::Link) and
//! [`Listener`](pagelift_engine::transport::Listener): it opens connections that carry bytes in
//! order, and knows nothing of what they mean. [`Endpoint`] reads the URIs that users write, and
//! connects or listens there.
//!
//! | module | is |
//! |---|---|
//! | `tcp` | blocking TCP sockets: `tcp://host:port` |
//! | `socket` | sockets within one machine: `unix:`, `vsock:` |
//! | `byte_stream` | a byte stream that somebody has given: `fd:`, `exec:`, `stdio:` |
//! | `mux` | several connections over one byte stream |
//! | `rdma` | pages written by the network card, beside one of these: `rdma://host:port` |
//! | `tls` | TLS 1.3 over another transport, see [`Security`] |
//! | `paced` | a cap on the rate of any link, see [`Paced`] |
//! | `sim` | a simulated network under virtual time, with the feature `sim`: for tests |

#![cfg(target_os = "linux")]

mod byte_stream;
mod endpoint;
mod mux;
mod paced;
mod rdma;
mod security;
#[cfg(feature = "sim")]
pub mod sim;
mod socket;
mod socket_file;
mod tcp;
mod tls;

pub use endpoint::{Dscp, Endpoint, EndpointError, TcpAddress, link_through};
pub use paced::Paced;
#[cfg(feature = "fuzz")]
pub use rdma::key_records;
pub use security::Security;
pub use socket_file::{SocketFileError, listen_privately};
pub use tls::{AllowedPeer, Certificates, CertificatesError, Token, TokenError};
