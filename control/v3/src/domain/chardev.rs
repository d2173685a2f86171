//! Where the bytes of a serial line go on the host.

use crate::xml::{Element, Malformed, Tag, Writer};

use super::words::{on_off, on_or_off};

/// Where the bytes of a serial line go on the host. It may differ between the ends of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chardev {
    /// Nowhere.
    Null,
    /// A new pseudo-terminal; its path is known while the guest runs.
    Pty(Option<String>),
    /// A file.
    File {
        /// The file.
        path: String,
        /// Whether what the file holds already is kept; QEMU's default where it is not said.
        append: Option<bool>,
    },
    /// A unix socket.
    Unix {
        /// The socket; without one QEMU's driver makes a path.
        path: Option<String>,
        /// Whether QEMU listens, and does not connect.
        listen: bool,
    },
    /// A TCP socket.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: String,
        /// Whether QEMU listens, and does not connect.
        listen: bool,
    },
}

impl Chardev {
    /// The word of the kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Pty(_) => "pty",
            Self::File { .. } => "file",
            Self::Unix { .. } => "unix",
            Self::Tcp { .. } => "tcp",
        }
    }

    /// Takes the kind and the place from a device.
    pub(super) fn read_of(device: &mut Element<'_>) -> Result<Self, Malformed> {
        let kind = device.required("type")?;
        let source = device.child("source")?;
        if let Some(mut protocol) = device.child("protocol")? {
            match protocol.attribute("type") {
                Some("raw") | None => protocol.finish()?,
                Some(_) => return Err(protocol.unknown()),
            }
        }
        let listens = |mode: &str| match mode {
            "bind" => Some(true),
            "connect" => Some(false),
            _ => None,
        };
        let missing = |what: &str| Malformed::Missing(format!("{}/source{what}", device.path()));
        let Some(mut source) = source else {
            return match kind {
                "null" => Ok(Self::Null),
                "pty" => Ok(Self::Pty(None)),
                "unix" => Ok(Self::Unix {
                    path: None,
                    listen: true,
                }),
                "file" | "tcp" => Err(missing("")),
                _ => Err(Malformed::Unknown(format!(
                    "{}[@type='{kind}']",
                    device.path()
                ))),
            };
        };
        let path = source.attribute("path").map(str::to_owned);
        let chardev = match kind {
            "null" => Self::Null,
            "pty" => Self::Pty(None),
            "file" => Self::File {
                path: path.ok_or_else(|| missing("/@path"))?,
                append: source.read("append", on_off)?,
            },
            "unix" => {
                let listen = source.read("mode", listens)?.unwrap_or(true);
                if path.is_none() && !listen {
                    return Err(missing("/@path"));
                }
                Self::Unix { path, listen }
            }
            "tcp" => Self::Tcp {
                host: source.required("host")?.to_owned(),
                port: source.required("service")?.to_owned(),
                listen: source.read("mode", listens)?.unwrap_or(false),
            },
            _ => {
                return Err(Malformed::Unknown(format!(
                    "{}[@type='{kind}']",
                    device.path()
                )));
            }
        };
        source.finish()?;
        Ok(chardev)
    }

    /// The attributes of the device.
    pub(super) fn attributes<'w>(&self, tag: Tag<'w>) -> Tag<'w> {
        tag.attribute("type", self.kind())
    }

    /// The elements of the device; a terminal's path only where it is `live`.
    pub(super) fn write(&self, w: &mut Writer, live: bool) {
        let mode = |listen: bool| if listen { "bind" } else { "connect" };
        match self {
            Self::Null | Self::Unix { path: None, .. } => {}
            Self::Pty(path) => {
                if let Some(path) = path.as_ref().filter(|_| live) {
                    w.element("source").attribute("path", path).empty();
                }
            }
            Self::File { path, append } => w
                .element("source")
                .attribute("path", path)
                .attribute_of("append", append.map(on_or_off))
                .empty(),
            Self::Unix {
                path: Some(path),
                listen,
            } => w
                .element("source")
                .attribute("mode", mode(*listen))
                .attribute("path", path)
                .empty(),
            Self::Tcp { host, port, listen } => {
                w.element("source")
                    .attribute("mode", mode(*listen))
                    .attribute("host", host)
                    .attribute("service", port)
                    .empty();
                w.element("protocol").attribute("type", "raw").empty();
            }
        }
    }

    /// Forgets what was known only while the guest ran.
    pub(super) fn forget_live(&mut self) {
        if let Self::Pty(path) = self {
            *path = None;
        }
    }
}
