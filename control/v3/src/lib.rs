//! libvirt's third migration protocol (v3), as values and pure state machines.
//!
//! Nothing here does I/O, reads a clock or starts a thread: time and events are arguments, so that
//! every order of events can be written down as a test. The daemon (`pageliftd`) gives these
//! machines a network, a hypervisor and a disk.
//!
//! - [`domain`]: the description of a guest, in the subset of libvirt's domain XML that is supported

pub mod domain;
mod xml;
