//! Controllers, screens, and small devices.

use pagelift_v3::domain::device::{
    Controller, ControllerKind, Hostdev, Input, InputBus, InputKind, Rng, Video, VideoKind,
    Watchdog, WatchdogModel,
};
use pagelift_v3::domain::{Address, Chipset};
use serde_json::json;

use super::{Args, Unsupported, comma, unsupported};

impl Args<'_> {
    pub(super) fn controllers(&mut self) -> Result<(), Unsupported> {
        let domain = self.domain;
        for controller in &domain.devices.controllers {
            self.controller(controller)?;
        }
        Ok(())
    }

    fn controller(&mut self, controller: &Controller) -> Result<(), Unsupported> {
        let Controller {
            kind, index, model, ..
        } = controller;
        let q35 = self.domain.os.chipset() == Some(Chipset::Q35);
        let id = controller.alias();
        let address = controller.address.as_ref();
        match (kind, model.as_deref()) {
            // Parts of the machine.
            (ControllerKind::Pci, Some("pci-root" | "pcie-root")) => Ok(()),
            (ControllerKind::Ide, _) if *index == 0 && !q35 => Ok(()),
            (ControllerKind::Sata, _) if *index == 0 && q35 => Ok(()),
            (ControllerKind::Pci, Some("pcie-root-port")) => {
                let target = controller.target.as_ref();
                let more = json!({
                    "chassis": target.map_or(*index, |target| target.chassis),
                    "port": target.map(|target| target.port),
                });
                self.device("pcie-root-port", &id, address, more)
            }
            (ControllerKind::Usb, Some(model @ ("piix3-uhci" | "qemu-xhci"))) => {
                let driver = match model {
                    "piix3-uhci" => "piix3-usb-uhci",
                    other => other,
                };
                self.device(driver, &id, address, json!({}))
            }
            (ControllerKind::Sata, _) => self.device("ahci", &id, address, json!({})),
            (ControllerKind::Scsi, None | Some("virtio-scsi")) => {
                self.device("virtio-scsi-pci", &id, address, json!({}))
            }
            (ControllerKind::VirtioSerial, _) => {
                let more = json!({ "max_ports": controller.ports });
                self.device("virtio-serial-pci", &id, address, more)
            }
            (kind, model) => {
                let model = model.unwrap_or("without a model");
                unsupported(format!("a {kind} controller '{model}' is not supported"))
            }
        }
    }

    pub(super) fn displays(&mut self) -> Result<(), Unsupported> {
        let domain = self.domain;
        self.option("-audiodev", "driver=none,id=audio1");
        if domain.devices.graphics.len() > 1 {
            return unsupported("more than one screen is not supported");
        }
        match domain.devices.graphics.first() {
            None => self.option("-display", "none"),
            Some(graphics) => {
                let host = comma(graphics.listen.as_deref().unwrap_or("127.0.0.1"));
                let display = match graphics.port {
                    None => format!("{host}:0,to=99"),
                    Some(port) => match port.checked_sub(5900) {
                        Some(number) => format!("{host}:{number}"),
                        None => return unsupported(format!("VNC port {port} is below 5900")),
                    },
                };
                self.option("-vnc", format!("{display},audiodev=audio1"));
            }
        }
        for (at, video) in domain.devices.videos.iter().enumerate() {
            let id = Video::alias(at);
            let mib = video.vram.map(|kib| kib / 1024);
            let address = video.address.as_ref();
            match video.kind {
                VideoKind::None => {}
                VideoKind::Vga => {
                    self.device("VGA", &id, address, json!({ "vgamem_mb": mib }))?;
                }
                VideoKind::Cirrus => {
                    self.device("cirrus-vga", &id, address, json!({ "vgamem_mb": mib }))?;
                }
                VideoKind::Virtio => {
                    let more = json!({ "max_outputs": video.heads });
                    self.device("virtio-vga", &id, address, more)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn others(&mut self) -> Result<(), Unsupported> {
        let devices = &self.domain.devices;
        for (at, input) in devices.inputs.iter().enumerate() {
            self.input(&Input::alias(at), input)?;
        }
        for (at, hostdev) in devices.hostdevs.iter().enumerate() {
            if hostdev.managed {
                return unsupported(
                    "a managed host device is not supported; bind it to vfio-pci and say managed='no'",
                );
            }
            let source = hostdev.source;
            let host = format!(
                "{:04x}:{:02x}:{:02x}.{}",
                source.domain, source.bus, source.slot, source.function
            );
            let address = hostdev.address.as_ref();
            self.device(
                "vfio-pci",
                &Hostdev::alias(at),
                address,
                json!({ "host": host }),
            )?;
        }
        for (at, watchdog) in devices.watchdogs.iter().enumerate() {
            match watchdog.model {
                WatchdogModel::I6300esb => {
                    let address = watchdog.address.as_ref();
                    self.device("i6300esb", &Watchdog::alias(at), address, json!({}))?;
                }
                // A part of the chipset, which does nothing unless it may.
                WatchdogModel::Itco => self.option("-global", "ICH9-LPC.noreboot=off"),
            }
            self.option("-action", format!("watchdog={}", watchdog.action));
        }
        if let Some(balloon) = &devices.balloon {
            let more = json!({
                "deflate-on-oom": balloon.autodeflate,
                "free-page-reporting": balloon.free_page_reporting,
            });
            self.device(
                "virtio-balloon-pci",
                "balloon0",
                balloon.address.as_ref(),
                more,
            )?;
        }
        for (at, rng) in devices.rngs.iter().enumerate() {
            let id = Rng::alias(at);
            let object = format!("obj{id}");
            self.json(
                "-object",
                &json!({ "qom-type": "rng-random", "id": object, "filename": rng.source }),
            );
            let more = json!({ "rng": object });
            self.device("virtio-rng-pci", &id, rng.address.as_ref(), more)?;
        }
        if let Some(vsock) = &devices.vsock {
            let Some(cid) = vsock.cid else {
                return unsupported("a vsock with an automatic cid is not supported; name one");
            };
            let more = json!({ "guest-cid": cid });
            self.device("vhost-vsock-pci", "vsock0", vsock.address.as_ref(), more)?;
        }
        Ok(())
    }

    fn input(&mut self, id: &str, input: &Input) -> Result<(), Unsupported> {
        let kind = match input.kind {
            InputKind::Mouse => "mouse",
            InputKind::Keyboard => "keyboard",
            InputKind::Tablet => "tablet",
        };
        match input.bus {
            // Parts of the machine.
            InputBus::Ps2 => Ok(()),
            InputBus::Virtio => {
                let driver = format!("virtio-{kind}-pci");
                self.device(&driver, id, input.address.as_ref(), json!({}))
            }
            InputBus::Usb => {
                let driver = match input.kind {
                    InputKind::Keyboard => "usb-kbd".to_owned(),
                    _ => format!("usb-{kind}"),
                };
                let Some(Address::Usb { port, .. }) = input.address else {
                    return unsupported(format!("{id}: its address is none on the USB bus"));
                };
                let more = json!({ "bus": "usb.0", "port": port.to_string() });
                self.device(&driver, id, None, more)
            }
        }
    }
}
