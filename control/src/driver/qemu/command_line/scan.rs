//! Finds the options among QEMU's arguments.
//!
//! Whether an argument is an option or the value of the one before it depends on the option:
//! in `-name -m` the `-m` is a name. So the options that take no value are listed here; all
//! others take the next argument, whatever it looks like. One dash or two mean the same.

use std::ffi::OsString;

/// Options without a value: those of QEMU 10.0 (a test below asks it) and those that releases
/// since 7.2 had besides.
const FLAGS: [&str; 36] = [
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
    /// Index of its value, if it takes one and it is there.
    pub(super) value_at: Option<usize>,
}

impl Found {
    /// Whether the command line ends where the option's value should be.
    pub(super) fn lacks_value(&self) -> bool {
        self.value_at.is_none() && !FLAGS.contains(&self.name.as_str())
    }
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

    /// QEMU's own word on which of the options in its help take a value.
    ///
    /// With `-machine help` before it, the option at the end of the line is either refused
    /// for its missing value, or QEMU lists the machines and exits.
    #[test]
    fn qemu_agrees_on_which_options_take_a_value() {
        let qemu = |args: &[&str]| {
            std::process::Command::new("qemu-system-x86_64")
                .args(args)
                .stdin(std::process::Stdio::null())
                .output()
        };
        let Ok(help) = qemu(&["-help"]) else {
            eprintln!("SKIP: qemu-system-x86_64 is not installed");
            return;
        };
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        let mut names: Vec<&str> = help
            .lines()
            .filter(|line| line.starts_with('-'))
            .map(|line| line.trim_start_matches('-'))
            .filter_map(|line| {
                line.split(|c: char| !c.is_alphanumeric() && c != '-')
                    .next()
            })
            .filter(|name| !name.is_empty())
            .collect();
        names.sort_unstable();
        names.dedup();
        assert!(names.len() > 90, "the help lists its options: {names:?}");
        for name in names {
            let output = qemu(&["-machine", "help", &format!("-{name}")]).unwrap();
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            if complaint.contains("invalid option") {
                continue; // A word of the help that is no option.
            }
            let takes_value = complaint.contains("requires an argument");
            assert_eq!(takes_value, !FLAGS.contains(&name), "-{name}: {complaint}");
        }
    }
}
