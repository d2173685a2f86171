//! The parameters, with their types. docs/v3.md shows this table; a test compares.

use super::Key;
use crate::flags::Driver;

/// The type of a parameter on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A signed number of 32 bits.
    Int,
    /// An unsigned number of 64 bits.
    ULLong,
    /// A text.
    String,
}

impl Kind {
    /// The type's name, as error messages have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::ULLong => "ullong",
            Self::String => "string",
        }
    }
}

/// A parameter.
#[derive(Debug, Clone, Copy)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Whether it may be there several times.
    pub repeats: bool,
    /// Whether Virtuozzo's driver knows it too.
    pub vz: bool,
    /// What it says, with unit and range.
    pub text: &'static str,
    /// Why QEMU's driver refuses it (code 74), if it does.
    pub refused: Option<&'static str>,
}

impl Param {
    /// Whether `driver` knows the parameter.
    #[must_use]
    pub const fn known_by(&self, driver: Driver) -> bool {
        match driver {
            Driver::Qemu => true,
            Driver::Vz => self.vz,
        }
    }
}

macro_rules! params {
    (@type String) => { &'static str };
    (@type Int) => { i32 };
    (@type ULLong) => { u64 };
    (@vz vz) => { true };
    (@vz qemu) => { false };
    (@many one) => { false };
    (@many many) => { true };
    (@refused) => { None };
    (@refused $why:literal) => { Some($why) };
    ($($key:ident $name:literal $kind:ident $many:ident $driver:ident $text:literal
        $(refused $why:literal)?;)*) => {
        impl Param {
            $(#[doc = $text] pub const $key: Key<params!(@type $kind)> = Key::new($name);)*
        }

        /// Every parameter.
        pub const TABLE: &[Param] = &[$(Param {
            name: $name,
            kind: Kind::$kind,
            repeats: params!(@many $many),
            vz: params!(@vz $driver),
            text: $text,
            refused: params!(@refused $($why)?),
        },)*];
    };
}

params! {
    MIGRATE_URI "migrate_uri" String one vz "Where the source is to send the guest's memory.";
    DESTINATION_NAME "destination_name" String one vz "The name of the guest on the target.";
    DESTINATION_XML "destination_xml" String one vz "The description of the guest on the target.";
    PERSISTENT_XML "persistent_xml" String one qemu "What the target defines.";
    BANDWIDTH "bandwidth" ULLong one vz "The most to send, in MiB/s; 0 is no limit.";
    BANDWIDTH_POSTCOPY "bandwidth.postcopy" ULLong one qemu "The same in post-copy, in MiB/s.";
    BANDWIDTH_SWITCHOVER "bandwidth.avail.switchover" ULLong one qemu "What the downtime is computed with, in MiB/s.";
    GRAPHICS_URI "graphics_uri" String one qemu "Where viewers of the guest's screen are sent."
        refused "they are not sent anywhere";
    LISTEN_ADDRESS "listen_address" String one qemu "The address that the target listens on.";
    MIGRATE_DISKS "migrate_disks" String many qemu "The target of a disk that is copied.";
    MIGRATE_DISKS_ZEROES "migrate_disks_detect_zeroes" String many qemu "The target of a disk whose zeros are not copied.";
    DISKS_PORT "disks_port" Int one qemu "The TCP port for disks."
        refused "disks have to be shared, they are not copied";
    DISKS_URI "disks_uri" String one qemu "Where the source is to send disks."
        refused "disks have to be shared, they are not copied";
    COMPRESSION "compression" String many qemu "How data are compressed: xbzrle, mt, zlib, zstd.";
    MT_LEVEL "compression.mt.level" Int one qemu "The level of mt, 0 to 9.";
    MT_THREADS "compression.mt.threads" Int one qemu "The threads that compress with mt, 1 to 255.";
    MT_DTHREADS "compression.mt.dthreads" Int one qemu "The threads that unpack mt, 1 to 255.";
    XBZRLE_CACHE "compression.xbzrle.cache" ULLong one qemu "The cache of xbzrle, in bytes.";
    ZLIB_LEVEL "compression.zlib.level" Int one qemu "The level of zlib, 0 to 9.";
    ZSTD_LEVEL "compression.zstd.level" Int one qemu "The level of zstd, 0 to 20.";
    CONVERGE_INITIAL "auto_converge.initial" Int one qemu "The first throttle, 1 to 99 %.";
    CONVERGE_INCREMENT "auto_converge.increment" Int one qemu "What is added to it, 1 to 99 %.";
    PARALLEL_CONNECTIONS "parallel.connections" Int one qemu "The connections for data, 1 to 255.";
    TLS_DESTINATION "tls.destination" String one qemu "The name in the target's certificate.";
    FORCE "pagelift.force" String many qemu "A risk that is taken: see docs/v3.md.";
    WITHOUT "pagelift.without" String many qemu "A flag that is to be off: see docs/v3.md.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_there_once() {
        for (at, param) in TABLE.iter().enumerate() {
            assert!(
                TABLE[..at].iter().all(|p| p.name != param.name),
                "{}",
                param.name
            );
        }
    }

    #[test]
    fn the_parameters_are_in_the_documentation() {
        let mut table =
            String::from("| parameter | type | repeated | vz | |\n|---|---|---|---|---|\n");
        for param in TABLE {
            let yes = |yes| if yes { "yes" } else { "" };
            let refused = param.refused.map(|why| format!(" Refused (74): {why}."));
            table += &format!(
                "| {} | {} | {} | {} | {}{} |\n",
                param.name,
                param.kind.name(),
                yes(param.repeats),
                yes(param.vz),
                param.text,
                refused.unwrap_or_default()
            );
        }
        crate::documented(&table);
    }
}
