//! What a guest has while it runs, beside its description.

use super::{Cpu, Domain};

/// What a running guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// The number that the guest has on its host until it stops, from 1.
    pub id: u32,
    /// The processor that the guest really got.
    pub cpu: Cpu,
}

impl Domain {
    /// The guest was started: it has a number, a processor, and names for its devices.
    ///
    /// `cpu` is the processor that QEMU made; without one it is taken to be the one that was asked for.
    pub fn started(&mut self, id: u32, cpu: Option<Cpu>) {
        let cpu = cpu.unwrap_or_else(|| self.cpu.clone());
        self.live = Some(Live { id, cpu });
    }

    /// The guest has stopped: what it had while it ran is gone.
    pub fn stopped(&mut self) {
        self.live = None;
        for serial in &mut self.devices.serials {
            serial.backend.forget_live();
        }
    }
}
