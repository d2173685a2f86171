//! Control plane of pagelift: QMP, the QEMU driver and its direct mode.

pub mod qemu;
pub mod qmp;
