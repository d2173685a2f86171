//! RDMA: pages are written to the target's memory by the network card.
//!
//! ```text
//! source                                                     target
//!   control  ============ stream (TCP, TLS) ==============>    control
//!   data     ============ stream: where memory is, keys ==     a thread that registers memory
//!            ------------ queue pair: SEND: frames ------->    a channel: reads frames
//!            ------------ WRITE: pages ------------------->    (nobody: guest memory)
//! ```
//!
//! Each connection begins as one of the transport below, so that both sides are authenticated as there,
//! and keys are as private as it. One for data has a queue pair besides, which librdmacm connects: to a
//! port, and by a random number, that the stream has told. Frames go as messages, of which the source
//! sends no more than the target has buffers for; pages go as writes from the memory that they were
//! copied to, in front of the frame that names them. A queue pair keeps the order of its requests, so the
//! pages are there when the frame is.
//!
//! Nothing on a queue pair is encrypted, and a key is in each packet that uses it: who reads the wire of
//! the RDMA network can write there as well.
//!
//! | module | is |
//! |---|---|
//! | `verbs` | libibverbs and librdmacm, loaded when needed |
//! | `keys` | the records of the streams |
//! | `link`, `send`, `windows` | the source |
//! | `listener`, `receive`, `exposure`, `key_service` | the target |

mod exposure;
mod key_service;
mod keys;
mod link;
mod listener;
mod receive;
mod send;
mod verbs;
mod windows;

#[cfg(feature = "fuzz")]
pub use keys::key_records;
pub(crate) use link::RdmaLink;
pub(crate) use listener::RdmaListener;
