//! Looking at a QEMU that is to take a guest, and preparing it.

use std::sync::{Arc, Mutex};

use pagelift_engine::memory::FileMemory;
use pagelift_engine::wire::GuestProperty;
use tracing::info;

use super::DirectTarget;
use super::feed::Loading;
use crate::driver::qemu::direct::error::DirectError;
use crate::driver::qemu::direct::memory;
use crate::driver::qemu::direct::watch::ProcessWatch;
use crate::driver::qemu::target::TargetQemu;
use crate::driver::qemu::{QemuMigrationError, preflight};
use crate::driver::{DriverError, InspectedTarget, PreparedTarget};
use crate::qmp::Address;

/// A QEMU that can take a guest.
#[derive(Debug)]
pub struct InspectedQemuTarget {
    target: TargetQemu,
    watch: ProcessWatch,
    memory: FileMemory,
}

impl InspectedQemuTarget {
    /// Looks at the QEMU whose monitor is at `qmp`, and refuses what could not end well.
    pub(in crate::driver::qemu::direct) fn new(qmp: &Address) -> Result<Self, DirectError> {
        let target = TargetQemu::connect(qmp)?;
        let guest = target.guest();
        let refusals = preflight::target(target.qmp(), guest)?;
        if !refusals.is_empty() {
            info!(?refusals, "QEMU cannot take a guest");
            let what = "this QEMU cannot take a guest";
            return Err(DirectError::Refused { what, refusals });
        }
        let watch = ProcessWatch::new(guest.pid).map_err(DirectError::Gone)?;
        let memory = memory::open(&guest.open_ram().map_err(QemuMigrationError::from)?)?;
        Ok(Self {
            target,
            watch,
            memory,
        })
    }
}

impl InspectedTarget for InspectedQemuTarget {
    type Guest = DirectTarget;

    fn properties(&self) -> Vec<GuestProperty> {
        self.target.guest().properties()
    }

    fn prepare(self) -> Result<PreparedTarget<DirectTarget>, DriverError> {
        let held = self.target.hold().map_err(DirectError::from)?;
        let guest = DirectTarget {
            watch: self.watch,
            held: Some(held),
            loading: Arc::new(Mutex::new(Loading::Waiting(None))),
            feeder: None,
            running: None,
        };
        Ok(PreparedTarget {
            memory: Arc::new(self.memory),
            guest,
        })
    }
}
