//! Which flags need others, and which exclude each other, with libvirt's codes.

use pagelift_rpc::error::{Error, ErrorCode};

use super::{Flags, refused};

/// What a flag demands of the others.
#[derive(Debug, Clone, Copy)]
enum Demand {
    /// One of these.
    Any(Flags),
    /// None of these.
    None(Flags),
}

/// The flags that demand something, what they demand, and what a set that lacks it is refused with.
const RULES: &[(Flags, Demand, ErrorCode, &str)] = {
    use Demand::{Any, None};
    use ErrorCode::{
        ArgumentUnsupported as Unsupported, InvalidArgument as Invalid, OperationInvalid as NotNow,
    };
    const NON_LIVE: &str = "post-copy migration is not supported with non-live or paused migration";
    &[
        (
            Flags::NON_SHARED_DISK,
            None(Flags::NON_SHARED_INC),
            Invalid,
            "Flags 'VIR_MIGRATE_NON_SHARED_DISK' and 'VIR_MIGRATE_NON_SHARED_INC' are mutually \
             exclusive",
        ),
        (
            Flags::TUNNELLED,
            None(Flags::PARALLEL),
            Invalid,
            "Flags 'VIR_MIGRATE_TUNNELLED' and 'VIR_MIGRATE_PARALLEL' are mutually exclusive",
        ),
        (
            Flags::NON_SHARED_SYNCHRONOUS_WRITES,
            Any(Flags::STORAGE),
            Invalid,
            "synchronous writes need storage that is copied",
        ),
        (
            Flags::TUNNELLED,
            Any(Flags::PEER2PEER),
            NotNow,
            "cannot perform tunnelled migration without using peer2peer flag",
        ),
        (
            Flags::OFFLINE,
            Any(Flags::PERSIST_DEST),
            NotNow,
            "offline migration must be specified with the persistent flag set",
        ),
        (
            Flags::OFFLINE,
            None(Flags::STORAGE),
            NotNow,
            "offline migration cannot handle non-shared storage",
        ),
        (
            Flags::OFFLINE,
            None(Flags::TUNNELLED),
            NotNow,
            "tunnelled offline migration does not make sense",
        ),
        (Flags::POSTCOPY, Any(Flags::LIVE), Unsupported, NON_LIVE),
        (Flags::POSTCOPY, None(Flags::PAUSED), Unsupported, NON_LIVE),
        (
            Flags::POSTCOPY,
            None(Flags::TUNNELLED),
            Unsupported,
            "post-copy is not supported with tunnelled migration",
        ),
        (
            Flags::POSTCOPY_RESUME,
            Any(Flags::POSTCOPY),
            Invalid,
            "a post-copy can go on only with the post-copy flag set",
        ),
        (
            Flags::ZEROCOPY,
            Any(Flags::PARALLEL),
            NotNow,
            "zero-copy is only available for parallel migration",
        ),
    ]
};

/// Refuses sets of flags that do not go together.
///
/// # Errors
///
/// The first rule that is broken, with libvirt's code: 8, 55 or 74.
pub fn check(flags: Flags) -> Result<(), Error> {
    for (flag, demand, code, words) in RULES {
        let kept = match demand {
            Demand::Any(others) => flags.has_any(*others),
            Demand::None(others) => !flags.has_any(*others),
        };
        if flags.has(*flag) && !kept {
            return Err(refused(*code, *words));
        }
    }
    Ok(())
}

/// What a flag demands of others, in words for docs/v3.md.
#[cfg(test)]
pub(super) fn demands_of(flag: Flags) -> String {
    let of_flag = RULES.iter().filter(|(f, ..)| *f == flag);
    let words = of_flag.map(|(_, demand, code, _)| {
        let (verb, others) = match demand {
            Demand::Any(others) => ("needs", others),
            Demand::None(others) => ("excludes", others),
        };
        let names: Vec<_> = others.names().collect();
        format!("{verb} {} ({})", names.join(" or "), code.number())
    });
    words.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The combinations that a libvirt 11.3 refuses, with its codes.
    #[test]
    fn combinations_are_refused_with_libvirts_codes() {
        for (flags, code) in [
            (Flags::NON_SHARED_DISK | Flags::NON_SHARED_INC, 8),
            (Flags::PEER2PEER | Flags::TUNNELLED | Flags::PARALLEL, 8),
            (Flags::NON_SHARED_SYNCHRONOUS_WRITES, 8),
            (Flags::TUNNELLED, 55),
            (Flags::OFFLINE, 55),
            (
                Flags::OFFLINE | Flags::PERSIST_DEST | Flags::NON_SHARED_DISK,
                55,
            ),
            (
                Flags::OFFLINE | Flags::PERSIST_DEST | Flags::PEER2PEER | Flags::TUNNELLED,
                55,
            ),
            (Flags::POSTCOPY, 74),
            (Flags::POSTCOPY | Flags::LIVE | Flags::PAUSED, 74),
            (
                Flags::POSTCOPY | Flags::LIVE | Flags::PEER2PEER | Flags::TUNNELLED,
                74,
            ),
            (Flags::POSTCOPY_RESUME | Flags::LIVE, 8),
            (Flags::ZEROCOPY | Flags::LIVE, 55),
        ] {
            let error = check(flags).unwrap_err();
            assert_eq!(
                (error.code.number(), error.domain.number()),
                (code, 10),
                "{flags:?}"
            );
        }
    }

    /// What virsh was seen to send in migrations that worked.
    #[test]
    fn combinations_that_work_are_taken() {
        for bits in [
            0x0, 0x1, 0x101, 0x119, 0x1b, 0x121, 0x1301, 0x2101, 0x901, 0x2_0101, 0x2_0901, 0x109,
            0x8101, 0x141, 0x508, 0x41a, 0x7,
        ] {
            assert_eq!(check(Flags(bits)), Ok(()), "{bits:#x}");
        }
    }

    #[test]
    fn every_flag_of_a_rule_can_be_set_in_some_way() {
        for (flag, demand, ..) in RULES {
            if let Demand::Any(others) = demand {
                assert!(!flag.has_any(*others), "{flag:?}");
            }
        }
    }
}
