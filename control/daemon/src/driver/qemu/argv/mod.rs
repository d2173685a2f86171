//! The command line of a QEMU: a description becomes arguments.
//!
//! Every device has a place of its own and a name, so that both ends of a migration build the same
//! machine. What cannot be built is refused, and never left out.

mod backend;
mod device;
mod disk;
mod machine;
mod network;

use std::path::PathBuf;

use pagelift_v3::domain::{Address, Chipset, Domain, Pci};
use serde_json::{Value, json};

/// The description asks for something that cannot be built here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(pub String);

/// How a QEMU is to be started, beside what the guest is.
#[derive(Clone, Debug)]
pub struct Start {
    /// Where its sockets are.
    pub dir: PathBuf,
    /// Whether it waits for the state of a guest from elsewhere.
    pub incoming: bool,
}

impl Start {
    /// The monitor's socket.
    pub fn monitor(&self) -> PathBuf {
        self.dir.join("qmp")
    }
}

/// Arguments as they are gathered.
#[derive(Debug)]
struct Args<'a> {
    domain: &'a Domain,
    start: &'a Start,
    all: Vec<String>,
}

/// The arguments for `domain`. The guest does not run before it is told to.
///
/// # Errors
/// When the description asks for something that cannot be built.
pub fn argv(domain: &Domain, start: &Start) -> Result<Vec<String>, Unsupported> {
    let mut args = Args {
        domain,
        start,
        all: Vec::new(),
    };
    args.machine()?;
    args.controllers()?;
    args.disks()?;
    args.interfaces()?;
    args.serials()?;
    args.displays()?;
    args.others()?;
    if start.incoming {
        args.option("-incoming", "defer");
    }
    args.all
        .extend(domain.command_line.arguments.iter().cloned());
    Ok(args.all)
}

impl Args<'_> {
    fn flag(&mut self, name: &str) {
        self.all.push(name.to_owned());
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.flag(name);
        self.all.push(value.into());
    }

    fn json(&mut self, name: &str, value: &Value) {
        self.option(name, value.to_string());
    }

    /// A device of the kind `driver` with the name `id`, at `address`, with `more`.
    fn device(
        &mut self,
        driver: &str,
        id: &str,
        address: Option<&Address>,
        more: Value,
    ) -> Result<(), Unsupported> {
        let mut device = json!({ "driver": driver, "id": id });
        if let Some(address) = address {
            let Address::Pci(pci) = address else {
                return unsupported(format!("{id}: {driver} is on the PCI bus"));
            };
            self.place(&mut device, pci);
        }
        merge(&mut device, more);
        self.json("-device", &device);
        Ok(())
    }

    fn place(&self, device: &mut Value, pci: &Pci) {
        device["bus"] = self.pci_bus(pci.bus).into();
        device["addr"] = match pci.function {
            0 => format!("{:#x}", pci.slot),
            function => format!("{:#x}.{function:#x}", pci.slot),
        }
        .into();
        if pci.multifunction {
            device["multifunction"] = true.into();
        }
    }

    fn pci_bus(&self, bus: u8) -> String {
        match (bus, self.domain.os.chipset()) {
            (0, Some(Chipset::Q35)) => "pcie.0".to_owned(),
            (bus, _) => format!("pci.{bus}"),
        }
    }
}

fn unsupported<T>(what: impl Into<String>) -> Result<T, Unsupported> {
    Err(Unsupported(what.into()))
}

/// Adds the members of `more` to `value`; those that are null are left out.
fn merge(value: &mut Value, more: Value) {
    let (Value::Object(value), Value::Object(more)) = (value, more) else {
        return;
    };
    value.extend(more.into_iter().filter(|(_, member)| !member.is_null()));
}

/// A text within an option whose parts are separated by commas.
fn comma(text: &str) -> String {
    text.replace(',', ",,")
}

const fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(devices: &str) -> Result<Vec<String>, Unsupported> {
        let text = format!(
            "<domain type='qemu'><name>g,1</name><uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid>\
             <memory unit='KiB'>131072</memory><vcpu>2</vcpu>\
             <os><type arch='x86_64' machine='pc-i440fx-10.0'>hvm</type>\
             <kernel>/k,1</kernel></os><features><acpi/></features>\
             <devices>{devices}</devices></domain>"
        );
        let domain = Domain::parse(&text).unwrap();
        let start = Start {
            dir: "/run/g".into(),
            incoming: false,
        };
        argv(&domain, &start)
    }

    fn has(args: &[String], name: &str, value: &str) -> bool {
        args.windows(2)
            .any(|pair| pair[0] == name && pair[1] == value)
    }

    #[test]
    fn a_small_guest() {
        let args = args("").unwrap();
        for (name, value) in [
            ("-name", "guest=g,,1,debug-threads=on"),
            ("-uuid", "aaaaaaaa-0000-4000-8000-000000000001"),
            ("-accel", "tcg"),
            ("-cpu", "qemu64"),
            ("-smp", "2"),
            ("-kernel", "/k,1"),
            (
                "-chardev",
                "socket,id=charmonitor,path=/run/g/qmp,server=on,wait=off",
            ),
        ] {
            assert!(has(&args, name, value), "{name} {value}: {args:#?}");
        }
        for flag in ["-S", "-nodefaults", "-no-user-config"] {
            assert!(args.iter().any(|arg| arg == flag), "{flag}");
        }
        let balloon =
            r#"{"addr":"0x2","bus":"pci.0","driver":"virtio-balloon-pci","id":"balloon0"}"#;
        assert!(has(&args, "-device", balloon), "{args:#?}");
    }

    #[test]
    fn a_disk_is_a_file_a_format_and_a_device() {
        let args = args(
            "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>\
             <source file='/d,1.raw'/><target dev='vda' bus='virtio'/></disk>",
        )
        .unwrap();
        let blocks: Vec<Value> = args
            .windows(2)
            .filter(|pair| pair[0] == "-blockdev")
            .map(|pair| serde_json::from_str(&pair[1]).unwrap())
            .collect();
        assert_eq!(blocks[0]["filename"], "/d,1.raw");
        assert_eq!(blocks[0]["cache"]["direct"], true);
        assert_eq!(blocks[1]["driver"], "raw");
        assert_eq!(blocks[1]["file"], blocks[0]["node-name"]);
        assert!(
            args.iter().any(|arg| arg.contains("\"virtio-disk0\"")),
            "{args:#?}"
        );
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
        let devices = "<hostdev mode='subsystem' type='pci' managed='yes'><source>\
            <address domain='0x0000' bus='0x06' slot='0x02' function='0x0'/></source></hostdev>";
        let error = args(devices).unwrap_err();
        assert!(error.to_string().contains("managed"), "{error}");
    }
}
