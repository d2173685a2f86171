//! The host's side of serial lines and channels.

use pagelift_v3::domain::device::Channel;
use pagelift_v3::domain::{Address, Chardev};
use serde_json::json;

use super::{Args, Unsupported, comma, on_off, unsupported};

impl Args<'_> {
    pub(super) fn serials(&mut self) -> Result<(), Unsupported> {
        let domain = self.domain;
        for serial in &domain.devices.serials {
            let id = serial.alias();
            let chardev = format!("char{id}");
            self.chardev(&chardev, &id, &serial.backend);
            let more = json!({ "chardev": chardev, "index": serial.port });
            self.device("isa-serial", &id, None, more)?;
        }
        for (at, channel) in domain.devices.channels.iter().enumerate() {
            let id = Channel::alias(at);
            let chardev = format!("char{id}");
            self.chardev(&chardev, &id, &channel.backend);
            let Some(Address::VirtioSerial {
                controller, port, ..
            }) = channel.address
            else {
                return unsupported(format!("{id}: its address is none of a virtio-serial port"));
            };
            let more = json!({
                "chardev": chardev,
                "bus": format!("virtio-serial{controller}.0"),
                "nr": port,
                "name": channel.name,
            });
            self.device("virtserialport", &id, None, more)?;
        }
        Ok(())
    }

    fn chardev(&mut self, id: &str, of: &str, backend: &Chardev) {
        let socket = |place: String, listen: bool| {
            let server = if listen { ",server=on,wait=off" } else { "" };
            format!("socket,id={id},{place}{server}")
        };
        let text = match backend {
            Chardev::Null => format!("null,id={id}"),
            Chardev::Pty(_) => format!("pty,id={id}"),
            Chardev::File { path, append } => {
                let append = on_off(append.unwrap_or(true));
                format!("file,id={id},path={},append={append}", comma(path))
            }
            Chardev::Unix { path, listen } => {
                let own = || self.start.dir.join(of).display().to_string();
                let path = path.clone().unwrap_or_else(own);
                socket(format!("path={}", comma(&path)), *listen)
            }
            Chardev::Tcp { host, port, listen } => socket(
                format!("host={},port={}", comma(host), comma(port)),
                *listen,
            ),
        };
        self.option("-chardev", text);
    }
}
