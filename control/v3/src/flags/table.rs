//! The flags, and what each driver can do with them. docs/v3.md shows this table; a test compares.

use pagelift_rpc::error::ErrorDomain;

use super::Flags;

/// What moves guests of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// QEMU, over QMP.
    Qemu,
    /// Virtuozzo, over its SDK.
    Vz,
}

impl Driver {
    /// The part of the system that its errors come from.
    #[must_use]
    pub const fn error_domain(self) -> ErrorDomain {
        match self {
            Self::Qemu => ErrorDomain::Qemu,
            Self::Vz => ErrorDomain::Vz,
        }
    }
}

/// What a driver does with a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It does what the flag says, or not.
    Optional,
    /// It always does what the flag says.
    Always,
    /// It cannot do so, for this reason.
    Never(&'static str),
    /// It has never heard of the flag.
    Unknown,
}

/// Which side a flag is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Both are told.
    Both,
    /// The source keeps it to itself.
    Source,
}

/// A flag, and who can do what with it.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// The flag.
    pub flag: Flags,
    /// What QEMU's driver does with it.
    pub qemu: Support,
    /// What Virtuozzo's driver does with it.
    pub vz: Support,
    /// The versions that have it begin with this one.
    pub since: &'static str,
}

impl Flag {
    /// The name without `VIR_MIGRATE_`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.flag.names().next().unwrap_or_default()
    }

    /// What `driver` does with the flag.
    #[must_use]
    pub const fn support(&self, driver: Driver) -> Support {
        match driver {
            Driver::Qemu => self.qemu,
            Driver::Vz => self.vz,
        }
    }

    /// Which side the flag is for.
    #[must_use]
    pub const fn side(&self) -> Side {
        if Flags::SOURCE_ONLY.has(self.flag) {
            Side::Source
        } else {
            Side::Both
        }
    }
}

const COPY: Support = Support::Never("disks have to be shared, they are not copied");
const POSTCOPY: Support = Support::Never("the guest moves when all its memory has");

const fn row(flag: Flags, since: &'static str, qemu: Support, vz: Support) -> Flag {
    Flag {
        flag,
        qemu,
        vz,
        since,
    }
}

/// Every flag.
pub const TABLE: &[Flag] = {
    use Support::{Always, Never, Optional, Unknown};
    &[
        row(Flags::LIVE, "0.3.2", Optional, Always),
        row(Flags::PEER2PEER, "0.7.2", Optional, Optional),
        row(
            Flags::TUNNELLED,
            "0.7.2",
            Never("data have a connection of their own"),
            Unknown,
        ),
        row(Flags::PERSIST_DEST, "0.7.3", Optional, Always),
        row(Flags::UNDEFINE_SOURCE, "0.7.3", Optional, Always),
        row(Flags::PAUSED, "0.7.5", Optional, Optional),
        row(Flags::NON_SHARED_DISK, "0.8.2", COPY, Unknown),
        row(Flags::NON_SHARED_INC, "0.8.2", COPY, Always),
        row(Flags::CHANGE_PROTECTION, "0.9.4", Optional, Unknown),
        row(Flags::UNSAFE, "0.9.11", Optional, Unknown),
        row(Flags::OFFLINE, "1.0.1", Optional, Unknown),
        row(Flags::COMPRESSED, "1.0.3", Optional, Unknown),
        row(Flags::ABORT_ON_ERROR, "1.1.0", Optional, Unknown),
        row(Flags::AUTO_CONVERGE, "1.2.3", Optional, Unknown),
        row(
            Flags::RDMA_PIN_ALL,
            "1.2.9",
            Never("there is no RDMA"),
            Unknown,
        ),
        row(Flags::POSTCOPY, "1.3.3", POSTCOPY, Unknown),
        row(
            Flags::TLS,
            "3.2.0",
            Never("data are not encrypted by QEMU"),
            Unknown,
        ),
        row(Flags::PARALLEL, "5.2.0", Optional, Unknown),
        row(Flags::NON_SHARED_SYNCHRONOUS_WRITES, "8.0.0", COPY, Unknown),
        row(Flags::POSTCOPY_RESUME, "8.5.0", POSTCOPY, Unknown),
        row(Flags::ZEROCOPY, "8.5.0", Optional, Unknown),
    ]
};

#[cfg(test)]
mod tests {
    use super::super::rules::demands_of;
    use super::*;

    fn words(support: Support) -> String {
        match support {
            Support::Optional => "yes".into(),
            Support::Always => "always".into(),
            Support::Never(why) => format!("no (74): {why}"),
            Support::Unknown => "no (8)".into(),
        }
    }

    #[test]
    fn the_flags_are_in_the_documentation() {
        let mut table =
            String::from("| flag | bit | since | told to | QEMU | vz | demands (code) |\n");
        table += "|---|---|---|---|---|---|---|\n";
        for row in TABLE {
            let side = match row.side() {
                Side::Both => "both",
                Side::Source => "source",
            };
            table += &format!(
                "| {} | {:#x} | {} | {side} | {} | {} | {} |\n",
                row.name(),
                row.flag.bits(),
                row.since,
                words(row.qemu),
                words(row.vz),
                demands_of(row.flag)
            );
        }
        crate::documented(&table);
    }

    #[test]
    fn every_flag_has_one_row() {
        let rows: Vec<_> = TABLE.iter().map(|row| row.flag).collect();
        let named: Vec<_> = Flags::NAMED.iter().map(|(flag, _)| *flag).collect();
        assert_eq!(rows, named);
    }
}
