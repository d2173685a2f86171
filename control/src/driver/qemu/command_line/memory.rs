//! Gathers what a command line says about memory, and gives RAM without a backend one.
//!
//! Where an option is given several times, the last one counts, as in QEMU; the properties of
//! several `-machine` and several `-m` are put together.

use super::properties::Properties;
use super::scan::Found;
use super::{
    CommandLineError, DEFAULT_RAM_BYTES, Host, MemoryFile, ShareableCommand, backend, config_file,
    path_of_new_file, size,
};

/// QEMU rounds the size given with `-m` up to this multiple, in bytes.
const RAM_ALIGN_BYTES: u64 = 8192;

/// What the command line says about memory, gathered option by option.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// `-machine memory-backend=` or `-numa node,memdev=` names what the guest's RAM is.
    has_main_memory: bool,
    is_machine_none: bool,
    /// Of the last `-m` that gives one; 0 and `None` mean QEMU's default.
    size_bytes: Option<u64>,
    /// The last `-mem-path`.
    mem_path: Option<String>,
    backend_ids: Vec<String>,
}

impl Memory {
    /// Takes one option into account, rewriting its value in `rewritten` if it must be.
    pub(super) fn note(
        &mut self,
        option: &Found,
        value: &str,
        rewritten: &mut ShareableCommand,
        host: &mut impl Host,
    ) -> Result<(), CommandLineError> {
        let unreadable = |reason: String| CommandLineError::Unreadable {
            option: format!("-{} {value}", option.name),
            reason,
        };
        let parse = |implied_key: &str| {
            Properties::parse(value, implied_key).map_err(|error| unreadable(error.to_string()))
        };
        match option.name.as_str() {
            "m" => {
                if let Some(text) = parse("size")?.get("size") {
                    let size = size::parse(&text, 1 << 20).ok_or_else(|| {
                        unreadable("not a size; write it like 512M, 1G or 512 (MiB)".into())
                    })?;
                    self.size_bytes = Some(size);
                }
            }
            "machine" | "M" => self.note_machine(&parse("type")?)?,
            "mem-path" => self.mem_path = Some(value.to_owned()),
            "numa" => self.has_main_memory |= parse("type")?.get("memdev").is_some(),
            "object" => {
                let rewrite = backend::rewrite(value, host)?;
                self.backend_ids.extend(rewrite.backend_id);
                rewritten.warnings.extend(rewrite.warning);
                if let (Some(value), Some(at)) = (rewrite.value, option.value_at) {
                    rewritten.args[at] = value.into();
                }
            }
            "readconfig" => {
                let text = host
                    .read_config(value)
                    .map_err(|source| CommandLineError::Config {
                        path: value.to_owned(),
                        source,
                    })?;
                let config = config_file::examine(value, &text)?;
                self.has_main_memory |= config.has_main_memory;
                self.size_bytes = config.size_bytes.or(self.size_bytes);
                self.backend_ids.extend(config.backend_ids);
            }
            "device" => {
                let driver = parse("driver")?.get("driver").unwrap_or_default();
                rewritten.warnings.extend(outside_writer(&driver));
            }
            "netdev" => {
                let kind = parse("type")?.get("type").unwrap_or_default();
                rewritten.warnings.extend(outside_writer(&kind));
            }
            _ => {}
        }
        Ok(())
    }

    fn note_machine(&mut self, machine: &Properties) -> Result<(), CommandLineError> {
        for key in ["confidential-guest-support", "memory-encryption"] {
            if machine.get(key).is_some() {
                return Err(CommandLineError::Unshareable {
                    what: "a confidential guest".into(),
                    reason: format!("its memory is encrypted (-machine {key}=)"),
                    remedy: "run it without pagelift, or without encryption".into(),
                });
            }
        }
        self.has_main_memory |= machine.get("memory-backend").is_some();
        if let Some(kind) = machine.get("type") {
            self.is_machine_none = kind == "none";
        }
        Ok(())
    }

    /// Whether the guest's RAM has no backend yet. A machine of type none has no RAM.
    pub(super) fn needs_backend(&self) -> bool {
        !self.has_main_memory && !self.is_machine_none
    }

    /// Adds a backend for the guest's RAM and names it to the machine.
    pub(super) fn add_backend(
        &self,
        options: &[Found],
        rewritten: &mut ShareableCommand,
        host: &mut impl Host,
    ) -> Result<(), CommandLineError> {
        let size_bytes = match self.size_bytes {
            None | Some(0) => DEFAULT_RAM_BYTES,
            Some(bytes) => bytes
                .checked_next_multiple_of(RAM_ALIGN_BYTES)
                .ok_or_else(|| CommandLineError::Unreadable {
                    option: format!("-m {bytes}B"),
                    reason: "more memory than an address can name".into(),
                })?,
        };
        // QEMU names the RAM so where it makes the backend itself, and so does libvirt; a
        // migration finds the block by this name.
        let mut id = "pc.ram";
        if self.backend_ids.iter().any(|taken| taken == id) {
            id = "pagelift.ram";
        }
        let path = match &self.mem_path {
            Some(path) => {
                rewritten.warnings.push(format!(
                    "-mem-path {path}: if that is a file, what the guest writes now goes to it"
                ));
                path.clone()
            }
            None => path_of_new_file(
                MemoryFile {
                    id: id.to_owned(),
                    size_bytes,
                    huge_pages: None,
                },
                host,
            )?,
        };
        let mut backend = Properties::KeyValue(Vec::new());
        backend.set_text("qom-type", "memory-backend-file");
        backend.set_text("id", id);
        backend.set_text("size", &size_bytes.to_string());
        backend.set_text("mem-path", &path);
        backend.set_on("share");

        let machine_value = options
            .iter()
            .rev()
            .filter(|option| matches!(option.name.as_str(), "M" | "machine"))
            .find_map(|option| option.value_at);
        let memory_backend = format!("memory-backend={id}");
        match machine_value {
            Some(at) => rewritten.args[at].push(format!(",{memory_backend}")),
            None => rewritten
                .args
                .extend(["-machine".into(), memory_backend.into()]),
        }
        rewritten
            .args
            .extend(["-object".into(), backend::object_text(&backend).into()]);
        self.drop_mem_path(options, rewritten);
        Ok(())
    }

    /// Removes `-mem-path`, which QEMU does not allow beside `memory-backend=`.
    ///
    /// `-mem-prealloc` stays: it holds for every backend.
    fn drop_mem_path(&self, options: &[Found], rewritten: &mut ShareableCommand) {
        for option in options.iter().rev() {
            if let ("mem-path", Some(value_at)) = (option.name.as_str(), option.value_at) {
                rewritten.args.drain(option.at..=value_at);
            }
        }
    }
}

/// A warning for a back end that writes guest memory from outside the QEMU process.
fn outside_writer(kind: &str) -> Option<String> {
    (kind.starts_with("vfio-") || kind.starts_with("vhost-user") || kind.starts_with("vhost-vdpa"))
        .then(|| {
            format!(
                "{kind} writes guest memory from outside QEMU, which the tracking does not see: \
                 unplug it before a migration"
            )
        })
}
