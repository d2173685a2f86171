//! Network cards.

use pagelift_v3::domain::Boot;
use pagelift_v3::domain::device::{Interface, InterfaceKind, InterfaceModel};
use serde_json::json;

use super::{Args, Unsupported, merge};

impl Args<'_> {
    pub(super) fn interfaces(&mut self) -> Result<(), Unsupported> {
        let domain = self.domain;
        for (at, interface) in domain.devices.interfaces.iter().enumerate() {
            let net = format!("host{}", Interface::alias(at));
            let mut netdev = json!({ "id": net });
            let more = match &interface.kind {
                InterfaceKind::User => json!({ "type": "user" }),
                InterfaceKind::Bridge {
                    bridge,
                    target: None,
                } => {
                    json!({ "type": "bridge", "br": bridge })
                }
                InterfaceKind::Bridge {
                    target: Some(name), ..
                } => json!({ "type": "tap", "ifname": name, "script": "no", "downscript": "no" }),
                InterfaceKind::Ethernet { target } => {
                    json!({ "type": "tap", "ifname": target, "script": "no", "downscript": "no" })
                }
            };
            merge(&mut netdev, more);
            self.json("-netdev", &netdev);
            let driver = match interface.model {
                InterfaceModel::Virtio => "virtio-net-pci",
                InterfaceModel::E1000 => "e1000",
                InterfaceModel::E1000e => "e1000e",
                InterfaceModel::Rtl8139 => "rtl8139",
            };
            let boot = domain
                .os
                .boot
                .iter()
                .position(|boot| *boot == Boot::Network);
            let boot = boot.filter(|_| at == 0).map(|place| place as u32 + 1);
            let more = json!({
                "netdev": net,
                "mac": interface.mac.to_string(),
                "host_mtu": interface.mtu,
                "bootindex": interface.boot_order.or(boot),
            });
            self.device(
                driver,
                &Interface::alias(at),
                interface.address.as_ref(),
                more,
            )?;
        }
        Ok(())
    }
}
