//! The settings that are compared: one list, to which more can be added.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

/// One engine with its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Method {
    /// Its name on the command line and in tables.
    pub(crate) name: &'static str,
    /// What the name stands for.
    pub(crate) engine: Engine,
}

/// Who moves the guest. Channels and the limit of the downtime are the same for all, and so is the
/// size of a cache of old contents, but that pagelift without options is as a user has it: with
/// `--compress auto`, which sends deltas where they pay, and the cache that it gives itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Engine {
    /// pagelift, with these options of `pagelift-send`.
    Pagelift(&'static [&'static str]),
    /// QEMU's own migration.
    Qemu {
        /// What is switched on.
        capabilities: &'static [&'static str],
        /// `multifd-compression`.
        compression: &'static str,
    },
}

/// All of them.
pub(crate) const METHODS: [Method; 10] = [
    pagelift("pagelift", &[]),
    pagelift("pagelift-raw", &["--compress", "none"]),
    pagelift("pagelift-xbzrle", &["--compress", "xbzrle"]),
    qemu("qemu", &[]),
    qemu("qemu-auto-converge", &["auto-converge"]),
    qemu("qemu-xbzrle", &["xbzrle"]),
    qemu("qemu-auto-converge-xbzrle", &["auto-converge", "xbzrle"]),
    qemu("qemu-multifd", &["multifd"]),
    qemu_zstd("qemu-multifd-zstd", &["multifd"]),
    qemu_zstd(
        "qemu-auto-converge-multifd-zstd",
        &["auto-converge", "multifd"],
    ),
];

const fn pagelift(name: &'static str, options: &'static [&'static str]) -> Method {
    Method {
        name,
        engine: Engine::Pagelift(options),
    }
}

const fn qemu(name: &'static str, capabilities: &'static [&'static str]) -> Method {
    Method {
        name,
        engine: Engine::Qemu {
            capabilities,
            compression: "none",
        },
    }
}

const fn qemu_zstd(name: &'static str, capabilities: &'static [&'static str]) -> Method {
    Method {
        name,
        engine: Engine::Qemu {
            capabilities,
            compression: "zstd",
        },
    }
}

impl Method {
    /// Reads a name.
    pub(crate) fn parser() -> impl TypedValueParser<Value = Self> {
        PossibleValuesParser::new(METHODS.map(|method| method.name)).map(|name| {
            let mut methods = METHODS.into_iter();
            methods
                .find(|method| method.name == name)
                .expect("the parser lets only these pass")
        })
    }

    /// Whether it is pagelift without any option.
    pub(crate) fn is_as_users_have_it(&self) -> bool {
        matches!(self.engine, Engine::Pagelift([]))
    }

    /// Whether it is pagelift with some settings.
    pub(crate) fn is_pagelift(&self) -> bool {
        matches!(self.engine, Engine::Pagelift(_))
    }
}
