//! Reasons why a QEMU cannot be had.

use std::io;

use pagelift_control::qmp::QmpError;

/// Why a QEMU cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// It cannot be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ended at once.
    #[error("QEMU unexpectedly closed the monitor (vm='{name}'): {said}")]
    Ended {
        /// The guest.
        name: String,
        /// What it printed.
        said: String,
    },
    /// Its monitor.
    #[error(transparent)]
    Monitor(#[from] QmpError),
    /// Its process.
    #[error("the process of the guest: {0}")]
    Process(#[from] io::Error),
}
