//! Drivers: what the engine needs to move a hypervisor's guest.
//!
//! | module | hypervisor |
//! |---|---|
//! | [`qemu`] | QEMU, its RAM moved by the engine from outside (direct mode) |

pub mod qemu;
