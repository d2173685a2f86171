//! How a guest is to move: libvirt's migration flags, and which of them go together.
//!
//! A set of flags is looked at as a whole, before anything is done on any host. libvirt notices some of
//! these faults only when the target's QEMU has been started.

mod rules;
mod table;

pub use rules::check;
pub use table::{Driver, Flag, Side, Support, TABLE};

use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};

/// A set of flags, with libvirt's bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(u32);

macro_rules! flags {
    ($($name:ident = $bit:literal, $text:literal;)*) => {
        impl Flags {
            $(#[doc = $text] pub const $name: Self = Self(1 << $bit);)*

            /// Every flag that libvirt 11.3 knows, with its name.
            pub(crate) const NAMED: &[(Self, &str)] = &[$((Self::$name, stringify!($name)),)*];
        }
    };
}

flags! {
    LIVE = 0, "The guest runs while its memory is moved.";
    PEER2PEER = 1, "The source's daemon does all the phases.";
    TUNNELLED = 2, "The data go through the connection of the daemons.";
    PERSIST_DEST = 3, "The guest is defined on the target.";
    UNDEFINE_SOURCE = 4, "The guest is no longer defined on the source.";
    PAUSED = 5, "The guest does not run on the target.";
    NON_SHARED_DISK = 6, "Disks are copied as a whole.";
    NON_SHARED_INC = 7, "The top layers of disks are copied.";
    CHANGE_PROTECTION = 8, "Nobody may change the guest from Begin to Confirm.";
    UNSAFE = 9, "The guest moves though its disks may lose what it wrote.";
    OFFLINE = 10, "Only the definition is moved.";
    COMPRESSED = 11, "The data are compressed.";
    ABORT_ON_ERROR = 12, "A disk's error ends the migration.";
    AUTO_CONVERGE = 13, "The guest is slowed down when it writes too fast.";
    RDMA_PIN_ALL = 14, "All memory is pinned for RDMA.";
    POSTCOPY = 15, "The guest may run on the target before all its memory is there.";
    TLS = 16, "The data are encrypted.";
    PARALLEL = 17, "There are several connections for the data.";
    NON_SHARED_SYNCHRONOUS_WRITES = 18, "Writes to disks that are copied reach both sides at once.";
    POSTCOPY_RESUME = 19, "A post-copy that stopped goes on.";
    ZEROCOPY = 20, "The kernel sends the guest's pages without copying them.";
}

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// What any driver stores of a source alone, or strips before the target is asked.
    pub const SOURCE_ONLY: Self =
        Self(Self::CHANGE_PROTECTION.0 | Self::ABORT_ON_ERROR.0 | Self::AUTO_CONVERGE.0);

    /// Flags that copy disks.
    pub const STORAGE: Self = Self(Self::NON_SHARED_DISK.0 | Self::NON_SHARED_INC.0);

    /// Reads the bits of a call to `function` of `driver`.
    ///
    /// # Errors
    ///
    /// Code 8 for bits that the driver does not know, code 74 for a flag that it knows and cannot do.
    pub fn read(driver: Driver, function: &str, bits: u64) -> Result<Self, Error> {
        let known = TABLE
            .iter()
            .filter(|f| f.support(driver) != Support::Unknown);
        let known = known.fold(0, |all, flag| all | u64::from(flag.flag.0));
        if bits & !known != 0 {
            return Err(Error::unsupported_flags(
                driver.error_domain(),
                function,
                bits & !known,
            ));
        }
        // All bits are known ones, which are in the lower half.
        let flags = Self(bits as u32);
        for flag in TABLE {
            if let Support::Never(why) = flag.support(driver)
                && flags.has(flag.flag)
            {
                let detail = format!("migration flag {} is not supported: {why}", flag.name());
                let domain = driver.error_domain();
                return Err(Error::new(ErrorCode::ArgumentUnsupported, domain, detail));
            }
        }
        Ok(flags)
    }

    /// The bits, as they are on the wire.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `others` are set.
    #[must_use]
    pub const fn has(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether any of `others` is set.
    #[must_use]
    pub const fn has_any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// These flags and `others`.
    #[must_use]
    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// These flags without `others`.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// What Prepare and Finish are told on the target.
    #[must_use]
    pub const fn for_target(self) -> Self {
        self.without(Self::SOURCE_ONLY)
    }

    /// The flag of a name as in [`Flag::name`], in any case, with `-` or `_`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.replace('-', "_").to_ascii_uppercase();
        Self::NAMED
            .iter()
            .find(|(_, n)| *n == name)
            .map(|(flag, _)| *flag)
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMED
            .iter()
            .filter(move |(flag, _)| self.has(*flag))
            .map(|(_, name)| *name)
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        self.with(others)
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)?;
        f.debug_set().entries(self.names()).finish()
    }
}

/// An error of a description of a migration, in the domain of QEMU's driver.
pub(crate) fn refused(code: ErrorCode, detail: impl Into<String>) -> Error {
    Error::new(code, ErrorDomain::Qemu, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_libvirts() {
        let all = Flags::NAMED
            .iter()
            .fold(0, |all, (flag, _)| all | flag.bits());
        assert_eq!(all, 0x1f_ffff);
        assert_eq!(Flags::NAMED.len(), 21);
        // What virsh sends, and what of it a target is told.
        let user = Flags(0xb819);
        assert_eq!(user.with(Flags::CHANGE_PROTECTION).bits(), 0xb919);
        assert_eq!(user.for_target().bits(), 0x8819);
        assert_eq!(Flags::named("auto-converge"), Some(Flags::AUTO_CONVERGE));
        assert_eq!(
            format!("{:?}", Flags::LIVE | Flags::TLS),
            "0x10001{\"LIVE\", \"TLS\"}"
        );
    }

    #[test]
    fn unknown_bits_are_refused_with_the_functions_name() {
        let function = "qemuDomainMigratePrepare3Params";
        let error = Flags::read(Driver::Qemu, function, 0x20_0001).unwrap_err();
        assert_eq!(
            error.message(),
            format!("unsupported flags (0x200000) in function {function}")
        );
        assert_eq!((error.code.number(), error.domain.number()), (8, 10));
        assert!(Flags::read(Driver::Qemu, function, 1 << 40).is_err());
    }

    #[test]
    fn vz_knows_its_final_set() {
        assert_eq!(Flags::read(Driver::Vz, "f", 0xbb).unwrap().bits(), 0xbb);
        for (flag, name) in Flags::NAMED
            .iter()
            .filter(|(flag, _)| flag.bits() & !0xbb != 0)
        {
            let error = Flags::read(Driver::Vz, "f", u64::from(flag.bits())).unwrap_err();
            assert_eq!(
                (error.code.number(), error.domain.number()),
                (8, 48),
                "{name}"
            );
        }
    }
}
