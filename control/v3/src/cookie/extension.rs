//! What two daemons of pagelift tell each other in a cookie, and a libvirtd passes over.

use crate::domain::Uuid;
use crate::domain::words::words;
use crate::xml::{Element, Malformed, Writer};

words! {
    /// What moves a guest's memory.
    pub enum Engine {
        /// QEMU itself.
        Native = "native",
        /// pagelift's engine, beside QEMU.
        Direct = "direct",
    }
}

/// What two daemons of pagelift tell each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extension {
    /// The number of the migration, which the source makes and both keep.
    pub id: Option<Uuid>,
    /// From the source: what it can move the guest with. From the target: what it is to be moved with.
    pub engines: Vec<Engine>,
    /// The name of a secret of the migration, by which each side proves to the other that it is the one.
    pub token: Option<Uuid>,
    /// Where this side's daemon can be asked what has become of the guest.
    pub ask: Option<String>,
}

impl Extension {
    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let uuid = |text: &str| text.parse().ok();
        let id = element.read("id", uuid)?;
        let token = element.read("token", uuid)?;
        let ask = element.attribute("ask").map(str::to_owned);
        // An engine of a later version is none that this one could use.
        let engines = element.children("engine").into_iter();
        let engines = engines
            .filter_map(|mut e| Engine::from_word(e.attribute("name")?))
            .collect();
        Ok(Self {
            id,
            engines,
            token,
            ask,
        })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.element("pagelift")
            .attribute_of("id", self.id)
            .attribute_of("token", self.token)
            .attribute_of("ask", self.ask.as_ref())
            .body(|w| {
                for engine in &self.engines {
                    w.element("engine").attribute("name", engine).empty();
                }
            });
    }
}
