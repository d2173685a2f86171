//! What is booted and on what machine, the clock, and what becomes of a guest that ends.

use super::words::{words, yes_no};
use crate::xml::{Element, Malformed, Writer};

/// What is booted, and on what machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Os {
    /// QEMU's machine type, such as `pc-i440fx-10.0`, or one without a version: `pc`.
    pub machine: String,
    /// A kernel that QEMU loads itself.
    pub kernel: Option<String>,
    /// The kernel's first file system.
    pub initrd: Option<String>,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// The devices that the firmware tries, in order.
    pub boot: Vec<Boot>,
}

words! {
    /// A kind of device to boot from.
    pub enum Boot {
        /// The first disk.
        Disk = "hd",
        /// The first CD drive.
        Cdrom = "cdrom",
        /// The first network device.
        Network = "network",
        /// The first floppy drive.
        Floppy = "fd",
    }
}

words! {
    /// A family of machines.
    pub enum Chipset {
        /// The machine with one PCI bus.
        I440fx = "i440fx",
        /// The machine with PCI Express.
        Q35 = "q35",
    }
}

impl Os {
    /// The family of the machine.
    #[must_use]
    pub fn chipset(&self) -> Option<Chipset> {
        let machine = self.machine.as_str();
        if machine == "pc" || machine.starts_with("pc-i440fx-") {
            Some(Chipset::I440fx)
        } else if machine == "q35" || machine.starts_with("pc-q35-") {
            Some(Chipset::Q35)
        } else {
            None
        }
    }

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let mut kind = element.child_required("type")?;
        match kind.attribute("arch") {
            None | Some("x86_64") => {}
            Some(arch) => return Err(kind.invalid(arch)),
        }
        let machine = kind.attribute("machine").unwrap_or("pc").to_owned();
        if kind.text().trim() != "hvm" {
            return Err(kind.invalid(kind.text()));
        }
        kind.finish()?;
        let kernel = element.text_of("kernel")?;
        let initrd = element.text_of("initrd")?;
        let cmdline = element.text_of("cmdline")?;
        let mut boot = Vec::new();
        for mut device in element.children("boot") {
            boot.push(device.read_required("dev", Boot::from_word)?);
            device.finish()?;
        }
        element.finish()?;
        Ok(Self {
            machine,
            kernel,
            initrd,
            cmdline,
            boot,
        })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.element("os").body(|w| {
            let machine = &self.machine;
            w.element("type")
                .attribute("arch", "x86_64")
                .attribute("machine", machine)
                .text("hvm");
            w.text_of("kernel", self.kernel.as_ref());
            w.text_of("initrd", self.initrd.as_ref());
            w.text_of("cmdline", self.cmdline.as_ref());
            for device in &self.boot {
                w.element("boot").attribute("dev", device).empty();
            }
        });
    }
}

/// What the firmware tells the guest that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// ACPI tables.
    pub acpi: bool,
    /// A local APIC.
    pub apic: bool,
    /// Physical addresses of more than 32 bits.
    pub pae: bool,
}

impl Features {
    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let features = Self {
            acpi: element.mark("acpi")?,
            apic: element.mark("apic")?,
            pae: element.mark("pae")?,
        };
        element.finish()?;
        Ok(features)
    }

    pub(super) fn write(&self, w: &mut Writer) {
        if *self != Self::default() {
            w.element("features").body(|w| {
                w.mark("acpi", self.acpi);
                w.mark("apic", self.apic);
                w.mark("pae", self.pae);
            });
        }
    }
}

words! {
    /// What the guest's clock shows when it starts.
    pub enum ClockOffset {
        /// Universal time.
        Utc = "utc",
        /// The host's local time.
        Localtime = "localtime",
    }
}

/// The guest's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// What it shows when the guest starts.
    pub offset: ClockOffset,
    /// Sources of time with settings of their own.
    pub timers: Vec<Timer>,
}

/// A source of time of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    /// `rtc`, `pit`, `hpet`, `kvmclock` or `hypervclock`.
    pub name: TimerName,
    /// What becomes of ticks that came while the guest did not run.
    pub tickpolicy: Option<TickPolicy>,
    /// Whether the guest has it.
    pub present: Option<bool>,
}

words! {
    /// A source of time.
    pub enum TimerName {
        /// The clock with the battery.
        Rtc = "rtc",
        /// The interval timer.
        Pit = "pit",
        /// The event timer.
        Hpet = "hpet",
        /// KVM's clock.
        Kvmclock = "kvmclock",
        /// Hyper-V's clock.
        Hypervclock = "hypervclock",
    }
}

words! {
    /// What becomes of ticks that came while the guest did not run.
    pub enum TickPolicy {
        /// They come late.
        Delay = "delay",
        /// They come faster than they should.
        Catchup = "catchup",
        /// They come as one.
        Merge = "merge",
        /// They do not come.
        Discard = "discard",
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            offset: ClockOffset::Utc,
            timers: Vec::new(),
        }
    }
}

impl Clock {
    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let offset = element
            .read("offset", ClockOffset::from_word)?
            .unwrap_or(ClockOffset::Utc);
        let mut timers = Vec::new();
        for mut timer in element.children("timer") {
            timers.push(Timer {
                name: timer.read_required("name", TimerName::from_word)?,
                tickpolicy: timer.read("tickpolicy", TickPolicy::from_word)?,
                present: timer.read("present", yes_no)?,
            });
            timer.finish()?;
        }
        element.finish()?;
        Ok(Self { offset, timers })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.element("clock")
            .attribute("offset", self.offset)
            .body(|w| {
                for timer in &self.timers {
                    w.element("timer")
                        .attribute("name", timer.name)
                        .attribute_of("present", timer.present.map(super::words::word_of))
                        .attribute_of("tickpolicy", timer.tickpolicy)
                        .empty();
                }
            });
    }
}

words! {
    /// What becomes of a guest that ends.
    pub enum Lifecycle {
        /// It is gone.
        Destroy = "destroy",
        /// It starts again.
        Restart = "restart",
        /// It stays for somebody to look at.
        Preserve = "preserve",
    }
}
