//! Finds the options among QEMU's arguments.
//!
//! Whether an argument is an option or the value of the one before it depends on the option:
//! in `-name -m` the `-m` is a name. So the options that take no value are listed here; all
//! others take the next argument, whatever it looks like. One dash or two mean the same.

use std::ffi::OsString;

/// Options without a value: those of QEMU 10.0 (found by asking it, see the tests beside the
/// agent's) and those that releases since 7.2 had besides.
pub(crate) const FLAGS: [&str; 36] = [
    "S",
    "async-teardown",
    "daemonize",
    "enable-kvm",
    "enable-sync-profile",
    "full-screen",
    "h",
    "help",
    "jitdump",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-hpet",
    "no-kvm",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nodefconfig",
    "nographic",
    "nouserconfig",
    "old-param",
    "only-migratable",
    "perfmap",
    "preconfig",
    "s",
    "semihosting",
    "show-cursor",
    "singlestep",
    "snapshot",
    "tdf",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
];

/// One option on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its name without dashes.
    pub(super) name: String,
    /// Index of the option among the arguments.
    pub(super) at: usize,
    /// Index of its value; a value that is missing at the end is for QEMU to complain of.
    pub(super) value_at: Option<usize>,
}

/// The options among `args`, in order; disk images and other loose arguments are passed over.
pub(super) fn options(args: &[OsString]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < args.len() {
        let name = args[at]
            .to_str()
            .and_then(|text| text.strip_prefix('-'))
            .map(|text| text.strip_prefix('-').unwrap_or(text));
        let step = match name {
            None => 1,
            Some(name) => {
                let takes_value = !FLAGS.contains(&name);
                found.push(Found {
                    name: name.to_owned(),
                    at,
                    value_at: Some(at + 1).filter(|&next| takes_value && next < args.len()),
                });
                1 + usize::from(takes_value)
            }
        };
        at += step;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_taken_for_options() {
        let args: Vec<OsString> = "-S --name -m disk.img -m 64 -nographic -M"
            .split(' ')
            .map(OsString::from)
            .collect();
        let found: Vec<_> = options(&args)
            .into_iter()
            .map(|option| (option.name, option.at, option.value_at))
            .collect();
        assert_eq!(
            found,
            [
                ("S".to_owned(), 0, None),
                ("name".to_owned(), 1, Some(2)),
                ("m".to_owned(), 4, Some(5)),
                ("nographic".to_owned(), 6, None),
                ("M".to_owned(), 7, None),
            ]
        );
    }
}
