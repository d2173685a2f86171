//! Whether a guest may be moved at all, and what a user may overrule.
//!
//! Some refusals are this daemon's own caution: nothing stands in the way but the risk, and a user who
//! names it may take it (`pagelift.force`). What QEMU or the target cannot do is refused whatever the
//! user says.

use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};

use crate::flags::{Flags, refused};

/// A risk that a user can take by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Risk {
    /// The descriptions of snapshots stay behind; the snapshots in the disks come along.
    Snapshots,
    /// Both sides may see different disks, or lose what one has not written yet.
    UnsafeStorage,
    /// A disk has failed, and the guest waits for somebody to mend it.
    IoError,
    /// The guest finds another machine on the target.
    GuestAbi,
}

impl Risk {
    const ALL: [Self; 4] = [
        Self::Snapshots,
        Self::UnsafeStorage,
        Self::IoError,
        Self::GuestAbi,
    ];

    /// The name in `pagelift.force`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snapshots => "snapshots",
            Self::UnsafeStorage => "unsafe-storage",
            Self::IoError => "io-error",
            Self::GuestAbi => "guest-abi",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    ///
    /// Code 8 with the names that there are.
    pub fn read(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|risk| risk.name() == name)
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL.map(Self::name).into();
                let detail = format!(
                    "there is no risk '{name}' to take; there are {}",
                    names.join(", ")
                );
                refused(ErrorCode::InvalidArgument, detail)
            })
    }
}

/// What is known of a guest that is to be moved, beside its description.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether it runs, or is paused.
    pub active: bool,
    /// How many snapshots it has that the other side would not know of.
    pub snapshots: usize,
    /// What stands in QEMU's way, in its words.
    pub blockers: Vec<String>,
    /// Targets of disks that are written and not on storage that both sides see.
    pub unshared_disks: Vec<String>,
    /// Whether the guest waits because a disk has failed.
    pub io_error: bool,
    /// Whether something is done to a disk of it.
    pub block_job: bool,
}

/// Refuses to move a guest that cannot be moved, or not safely.
///
/// # Errors
///
/// Libvirt's codes: 55 for a state that does not allow it, 81 for storage.
pub fn check(flags: Flags, risks: &[Risk], facts: &Facts) -> Result<(), Error> {
    let offline = flags.has(Flags::OFFLINE);
    let not_now = |detail: String| Err(refused(ErrorCode::OperationInvalid, detail));
    let taken = |risk| risks.contains(&risk);
    if !facts.active && !offline {
        let (code, domain) = (ErrorCode::OperationInvalid, ErrorDomain::DomainConfig);
        return Err(Error::new(code, domain, "domain is not running"));
    }
    if facts.snapshots > 0 && !taken(Risk::Snapshots) {
        return not_now(format!(
            "cannot migrate domain with {} snapshots",
            facts.snapshots
        ));
    }
    if offline {
        return Ok(());
    }
    if !facts.blockers.is_empty() {
        return not_now(format!(
            "cannot migrate domain: {}",
            facts.blockers.join("; ")
        ));
    }
    if flags.has(Flags::ABORT_ON_ERROR) && facts.io_error && !taken(Risk::IoError) {
        return not_now("cannot migrate domain with I/O error".into());
    }
    if facts.block_job {
        return not_now("domain has active block job".into());
    }
    let storage = flags.has(Flags::UNSAFE) || taken(Risk::UnsafeStorage);
    if !facts.unshared_disks.is_empty() && !storage && !flags.has_any(Flags::STORAGE) {
        let detail = "Migration without shared storage is unsafe";
        return Err(refused(ErrorCode::MigrateUnsafe, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> Facts {
        Facts {
            active: true,
            ..Facts::default()
        }
    }

    fn code(flags: Flags, risks: &[Risk], facts: &Facts) -> Option<(i32, String)> {
        let error = check(flags, risks, facts).err()?;
        Some((error.code.number(), error.message().to_owned()))
    }

    #[test]
    fn refusals_are_libvirts() {
        let invalid = "Requested operation is not valid: ";
        for (facts, code_is, words) in [
            (
                Facts::default(),
                55,
                format!("{invalid}domain is not running"),
            ),
            (
                Facts {
                    snapshots: 1,
                    ..running()
                },
                55,
                format!("{invalid}cannot migrate domain with 1 snapshots"),
            ),
            (
                Facts {
                    blockers: vec!["non-migratable device: 0000:00:08.0/nvme".into()],
                    ..running()
                },
                55,
                format!("{invalid}cannot migrate domain: non-migratable device: 0000:00:08.0/nvme"),
            ),
            (
                Facts {
                    unshared_disks: vec!["vda".into()],
                    ..running()
                },
                81,
                "Unsafe migration: Migration without shared storage is unsafe".into(),
            ),
        ] {
            assert_eq!(code(Flags::LIVE, &[], &facts), Some((code_is, words)));
        }
        assert_eq!(code(Flags::LIVE, &[], &running()), None);
    }

    /// UNSAFE is about storage alone; a risk by its name is about what it names alone.
    #[test]
    fn a_user_overrules_what_is_named_and_nothing_else() {
        let snapshots = Facts {
            snapshots: 1,
            ..running()
        };
        assert!(code(Flags::UNSAFE, &[Risk::UnsafeStorage], &snapshots).is_some());
        assert_eq!(code(Flags::NONE, &[Risk::Snapshots], &snapshots), None);
        let storage = Facts {
            unshared_disks: vec!["vda".into()],
            ..running()
        };
        assert_eq!(code(Flags::UNSAFE, &[], &storage), None);
        assert_eq!(code(Flags::NONE, &[Risk::UnsafeStorage], &storage), None);
        let blocked = Facts {
            blockers: vec!["a".into()],
            ..running()
        };
        assert!(code(Flags::UNSAFE, &Risk::ALL, &blocked).is_some());
        let failed = Facts {
            io_error: true,
            ..running()
        };
        assert_eq!(code(Flags::LIVE, &[], &failed), None);
        assert_eq!(code(Flags::ABORT_ON_ERROR, &[], &failed).unwrap().0, 55);
        assert_eq!(code(Flags::ABORT_ON_ERROR, &[Risk::IoError], &failed), None);
    }

    #[test]
    fn a_definition_moves_while_nothing_runs() {
        let offline = Flags::OFFLINE | Flags::PERSIST_DEST;
        let facts = Facts {
            unshared_disks: vec!["vda".into()],
            ..Facts::default()
        };
        assert_eq!(code(offline, &[], &facts), None);
        assert_eq!(
            code(
                offline,
                &[],
                &Facts {
                    snapshots: 2,
                    ..facts
                }
            )
            .unwrap()
            .0,
            55
        );
    }

    #[test]
    fn risks_have_names() {
        for risk in Risk::ALL {
            assert_eq!(Risk::read(risk.name()), Ok(risk));
        }
        let error = Risk::read("everything").unwrap_err();
        assert!(error.message().contains("guest-abi"), "{error}");
    }
}
