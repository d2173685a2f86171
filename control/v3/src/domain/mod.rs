//! The description of a guest: a documented subset of libvirt's domain XML.
//!
//! A description that is parsed is complete: what libvirt adds to what a user wrote (controllers,
//! input devices, addresses on the PCI bus) is added here by the same rules, so that both ends of a
//! migration build the same machine from the same text. What is not in the subset is refused by its
//! path; a device that is dropped in silence would be another machine.
//!
//! A machine type without a version (`pc`) stays as it is written, because only QEMU knows what it
//! stands for: [`Domain::resolve_machine`] puts its answer in.

mod abi;
mod address;
mod chardev;
mod command_line;
mod cpu;
mod defaults;
pub mod device;
mod error;
mod live;
mod memory;
mod os;
mod read;
mod units;
pub(crate) mod words;
mod write;

#[cfg(test)]
mod tests;

pub use pagelift_rpc::types::Uuid;

pub use abi::{check_abi, differences};
pub use address::{Address, Pci};
pub use chardev::Chardev;
pub use command_line::CommandLine;
pub use cpu::{Cpu, CpuCheck, CpuFeature, CpuMatch, CpuMode, CpuModel, FeaturePolicy, Topology};
pub use device::Devices;
pub use error::DomainError;
pub use live::Live;
pub use memory::{Access, Backing, MemorySource};
pub use os::{
    Boot, Chipset, Clock, ClockOffset, Features, Lifecycle, Os, TickPolicy, Timer, TimerName,
};
pub use units::KiB;
pub use write::Flavour;

/// A guest: what it is, what it is made of, and, while it runs, what it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Whether QEMU translates the guest's instructions or the processor runs them.
    pub virt: Virt,
    /// The name, unique on a host. Not empty, without `/` and line breaks.
    pub name: String,
    /// What identifies the guest everywhere.
    pub uuid: Uuid,
    /// A short text for people.
    pub title: Option<String>,
    /// A longer text for people.
    pub description: Option<String>,
    /// The memory that the guest is started with, and the most that it can have.
    pub memory: KiB,
    /// The memory that the balloon leaves to it.
    pub current_memory: KiB,
    /// How QEMU allocates the guest's memory, where it is not QEMU's default.
    pub backing: Option<Backing>,
    /// The number of virtual CPUs, from 1.
    pub vcpus: u32,
    /// What is booted, and on what machine.
    pub os: Os,
    /// What the firmware tells the guest that it has.
    pub features: Features,
    /// The processor that the guest sees.
    pub cpu: Cpu,
    /// The guest's clock.
    pub clock: Clock,
    /// What becomes of the guest when it powers off.
    pub on_poweroff: Lifecycle,
    /// What becomes of the guest when it reboots.
    pub on_reboot: Lifecycle,
    /// What becomes of the guest when it crashes.
    pub on_crash: Lifecycle,
    /// The devices, in libvirt's order of kinds.
    pub devices: Devices,
    /// What else QEMU is to be told.
    pub command_line: CommandLine,
    /// What a guest has while it runs.
    pub live: Option<Live>,
}

words::words! {
    /// Who runs the guest's instructions.
    pub enum Virt {
        /// QEMU translates them.
        Qemu = "qemu",
        /// The processor runs them.
        Kvm = "kvm",
    }
}

impl Domain {
    /// Reads a description and completes it. The text must say the uuid.
    ///
    /// # Errors
    ///
    /// [`DomainError::Syntax`] for a text that is no XML, [`DomainError::Xml`] for one that says
    /// something impossible, [`DomainError::Unsupported`] for what is outside of the subset.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        read::domain(text, None)
    }

    /// As [`Self::parse`], but a description without a uuid gets `fresh`.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`].
    pub fn parse_new(text: &str, fresh: Uuid) -> Result<Self, DomainError> {
        read::domain(text, Some(fresh))
    }

    /// The description as libvirt would write it.
    #[must_use]
    pub fn to_xml(&self, flavour: Flavour) -> String {
        self.to_xml_indented(flavour, 0)
    }

    /// As [`Self::to_xml`], as a part of another document, indented by so many spaces.
    #[must_use]
    pub fn to_xml_indented(&self, flavour: Flavour, spaces: usize) -> String {
        write::domain(self, flavour, spaces)
    }

    /// Puts the version that a machine type stands for in its place.
    pub fn resolve_machine(&mut self, resolve: impl FnOnce(&str) -> Option<String>) {
        if let Some(machine) = resolve(&self.os.machine) {
            self.os.machine = machine;
        }
    }
}
