//! A description becomes a text, in libvirt's order and spelling.

use super::device::As;
use super::{Domain, KiB};
use crate::xml::Writer;

/// What a description is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// The guest as it runs: its number, the names of devices, the processor that it got. A guest
    /// that does not run has none of these, and is written as [`Self::Inactive`].
    Live,
    /// The guest as it will be started the next time.
    Inactive,
    /// What the other end of a migration is told: without what it adds by the same rules.
    Migratable,
}

pub(super) fn domain(domain: &Domain, flavour: Flavour, spaces: usize) -> String {
    let live = domain.live.as_ref().filter(|_| flavour == Flavour::Live);
    let to = As {
        live: live.is_some(),
        migratable: flavour == Flavour::Migratable,
    };
    let mut w = Writer::new(spaces);
    w.element("domain")
        .attribute("type", domain.virt)
        .attribute_of("id", live.map(|live| live.id))
        .attribute_of("xmlns:qemu", domain.command_line.namespace())
        .body(|w| {
            w.element("name").text(&domain.name);
            w.element("uuid").text(domain.uuid);
            w.text_of("title", domain.title.as_ref());
            w.text_of("description", domain.description.as_ref());
            memory(w, "memory", domain.memory);
            memory(w, "currentMemory", domain.current_memory);
            if let Some(backing) = &domain.backing {
                backing.write(w);
            }
            w.element("vcpu")
                .attribute("placement", "static")
                .text(domain.vcpus);
            domain.os.write(w);
            domain.features.write(w);
            live.map_or(&domain.cpu, |live| &live.cpu).write(w);
            domain.clock.write(w);
            w.element("on_poweroff").text(domain.on_poweroff);
            w.element("on_reboot").text(domain.on_reboot);
            w.element("on_crash").text(domain.on_crash);
            domain.devices.write(w, to);
            domain.command_line.write(w);
        });
    w.finish()
}

fn memory(w: &mut Writer, name: &'static str, amount: KiB) {
    w.element(name).attribute("unit", "KiB").text(amount);
}
