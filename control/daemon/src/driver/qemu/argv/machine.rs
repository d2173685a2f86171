//! The machine: board, processors, memory, clock, what is booted.

use pagelift_v3::domain::{
    Access, Clock, ClockOffset, Cpu, CpuMode, FeaturePolicy, Lifecycle, MemorySource, TickPolicy,
    TimerName, Virt,
};
use serde_json::json;

use super::{Args, Unsupported, comma, on_off, unsupported};

/// What QEMU calls the guest's memory, whatever it is made of: the name goes along when it moves.
const MEMORY: &str = "pc.ram";

impl Args<'_> {
    pub(super) fn machine(&mut self) -> Result<(), Unsupported> {
        let domain = self.domain;
        self.option(
            "-name",
            format!("guest={},debug-threads=on", comma(&domain.name)),
        );
        self.flag("-S");
        self.flag("-no-user-config");
        self.flag("-nodefaults");
        self.board()?;
        self.option("-cpu", cpu(&domain.cpu)?);
        self.memory()?;
        self.option("-smp", smp(domain.vcpus, &domain.cpu));
        self.option("-uuid", domain.uuid.to_string());
        let monitor = comma(&self.start.monitor().display().to_string());
        self.option(
            "-chardev",
            format!("socket,id=charmonitor,path={monitor},server=on,wait=off"),
        );
        self.option("-mon", "chardev=charmonitor,id=monitor,mode=control");
        self.clock()?;
        if domain.on_poweroff != Lifecycle::Destroy {
            return unsupported("on_poweroff other than 'destroy' is not supported");
        }
        match domain.on_reboot {
            Lifecycle::Restart => {}
            Lifecycle::Destroy => self.flag("-no-reboot"),
            Lifecycle::Preserve => return unsupported("on_reboot 'preserve' is not supported"),
        }
        self.option("-boot", "strict=on");
        let os = &domain.os;
        for (name, value) in [
            ("-kernel", &os.kernel),
            ("-initrd", &os.initrd),
            ("-append", &os.cmdline),
        ] {
            if let Some(value) = value {
                self.option(name, value);
            }
        }
        Ok(())
    }

    fn board(&mut self) -> Result<(), Unsupported> {
        let domain = self.domain;
        let accel = match domain.virt {
            Virt::Qemu => "tcg",
            Virt::Kvm => "kvm",
        };
        self.option("-accel", accel);
        let mut board = format!(
            "{},usb=off,dump-guest-core=off,memory-backend={MEMORY}",
            comma(&domain.os.machine)
        );
        if !domain.features.acpi {
            board += ",acpi=off";
        }
        let hpet = timer(&domain.clock, TimerName::Hpet).and_then(|timer| timer.present);
        if let Some(present) = hpet {
            board += &format!(",hpet={}", on_off(present));
        }
        self.option("-machine", board);
        Ok(())
    }

    /// Memory that others may map unless the description says otherwise, so that the guest can move
    /// without QEMU's help.
    fn memory(&mut self) -> Result<(), Unsupported> {
        let domain = self.domain;
        let backing = domain.backing.clone().unwrap_or_default();
        let source = backing.source.unwrap_or(MemorySource::Memfd);
        let shared = match (source, backing.access) {
            (MemorySource::Memfd, access) => access != Some(Access::Private),
            (_, access) => access == Some(Access::Shared),
        };
        let kind = match source {
            MemorySource::Memfd => "memory-backend-memfd",
            MemorySource::Anonymous => "memory-backend-ram",
            MemorySource::File => return unsupported("memory from a file is not supported"),
        };
        let size = domain.memory.bytes();
        self.option("-m", format!("size={}k", domain.memory.0));
        self.json(
            "-object",
            &json!({
                "qom-type": kind,
                "id": MEMORY,
                "size": size,
                "share": shared,
                "x-use-canonical-path-for-ramblock-id": false,
            }),
        );
        let locked = on_off(backing.locked);
        self.option("-overcommit", format!("mem-lock={locked}"));
        Ok(())
    }

    fn clock(&mut self) -> Result<(), Unsupported> {
        let clock = &self.domain.clock;
        let base = match clock.offset {
            ClockOffset::Utc => "utc",
            ClockOffset::Localtime => "localtime",
        };
        let policy = |name| timer(clock, name).and_then(|timer| timer.tickpolicy);
        let rtc = match policy(TimerName::Rtc) {
            None | Some(TickPolicy::Delay) => format!("base={base}"),
            Some(TickPolicy::Catchup) => format!("base={base},driftfix=slew"),
            Some(other) => {
                return unsupported(format!("rtc tickpolicy '{other}' is not supported"));
            }
        };
        self.option("-rtc", rtc);
        match policy(TimerName::Pit) {
            None | Some(TickPolicy::Delay) => {}
            Some(other) => {
                return unsupported(format!("pit tickpolicy '{other}' is not supported"));
            }
        }
        Ok(())
    }
}

fn timer(clock: &Clock, name: TimerName) -> Option<&pagelift_v3::domain::Timer> {
    clock.timers.iter().find(|timer| timer.name == name)
}

fn cpu(cpu: &Cpu) -> Result<String, Unsupported> {
    let mut text = match (cpu.mode, &cpu.model) {
        (CpuMode::Custom, Some(model)) => comma(&model.name),
        (CpuMode::Custom, None) => "qemu64".to_owned(),
        (CpuMode::HostPassthrough, _) => "host".to_owned(),
        (CpuMode::Maximum, _) => "max".to_owned(),
        (CpuMode::HostModel, _) => {
            return unsupported("cpu mode 'host-model' is not supported; name a model");
        }
    };
    if cpu.mode == CpuMode::HostPassthrough && cpu.migratable == Some(false) {
        text += ",migratable=off";
    }
    for feature in &cpu.features {
        let on = match feature.policy {
            FeaturePolicy::Force | FeaturePolicy::Require => true,
            FeaturePolicy::Disable | FeaturePolicy::Forbid => false,
            FeaturePolicy::Optional => {
                return unsupported(format!(
                    "cpu feature '{}' is optional: say whether the guest has it",
                    feature.name
                ));
            }
        };
        text += &format!(",{}={}", comma(&feature.name), on_off(on));
    }
    Ok(text)
}

fn smp(vcpus: u32, cpu: &Cpu) -> String {
    match &cpu.topology {
        None => vcpus.to_string(),
        Some(t) => format!(
            "{vcpus},sockets={},dies={},clusters={},cores={},threads={}",
            t.sockets, t.dies, t.clusters, t.cores, t.threads
        ),
    }
}
