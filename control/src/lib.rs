//! Control plane of pagelift: QMP, the QEMU driver and its direct mode.

pub mod agent_client;
pub mod qemu;
pub mod qmp;
pub mod throttle;
