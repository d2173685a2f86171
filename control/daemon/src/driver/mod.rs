//! Hypervisors.

pub mod qemu;
