//! Reliable connections of RDMA devices: what is used of libibverbs and librdmacm, in Rust's terms.
//!
//! Unsafe code of the transport that is not here is about memory alone: how long it stays, and who looks
//! at it while a device may write there.

mod abi;
mod connection;
mod device;
mod events;
mod library;
mod listener;
mod requests;

pub(super) use connection::{Completion, Connected, Depths, Done};
pub(super) use device::{Access, Device, Registered};
pub(super) use events::Wake;
pub(super) use listener::CmListener;

/// An error without more to say if the libraries that RDMA needs can be loaded.
///
/// # Errors
/// When they cannot; the error says what to install.
pub(super) fn available() -> std::io::Result<()> {
    library::library().map(|_| ())
}
