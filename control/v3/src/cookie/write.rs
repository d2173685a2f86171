//! A cookie becomes a text, in libvirt's order.

use super::Cookie;
use crate::domain::Flavour;
use crate::domain::words::word_of;
use crate::xml::Writer;

pub(super) fn cookie(cookie: &Cookie) -> String {
    let mut w = Writer::new(0);
    w.element("qemu-migration").body(|w| {
        let identity = &cookie.identity;
        w.element("name").text(&identity.name);
        w.element("uuid").text(identity.uuid);
        w.element("hostname").text(&identity.hostname);
        w.element("hostuuid").text(identity.hostuuid);
        for feature in &cookie.features {
            w.element("feature").attribute("name", feature).empty();
        }
        if let Some(domain) = &cookie.persistent {
            w.elements(|indent| domain.to_xml_indented(Flavour::Migratable, indent));
        }
        if let Some(nbd) = &cookie.nbd {
            w.element("nbd").attribute_of("port", nbd.port).body(|w| {
                for (target, bytes) in &nbd.disks {
                    w.element("disk")
                        .attribute("target", target)
                        .attribute("capacity", bytes)
                        .empty();
                }
            });
        }
        if let Some(statistics) = &cookie.statistics {
            statistics.write(w);
        }
        if let Some(cpu) = &cookie.cpu {
            cpu.write(w);
        }
        if !cookie.capabilities.is_empty() {
            w.element("capabilities").body(|w| {
                for capability in &cookie.capabilities {
                    w.element("cap")
                        .attribute("name", &capability.name)
                        .attribute("auto", word_of(capability.auto))
                        .empty();
                }
            });
        }
        if let Some(extension) = &cookie.extension {
            extension.write(w);
        }
    });
    w.finish()
}
