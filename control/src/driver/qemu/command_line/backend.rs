//! Makes one memory backend (`-object memory-backend-...`) a shared file.
//!
//! QEMU leaves the memory of a backend to pagelift only if it is a `memory-backend-file` with
//! `share=on` (QEMU 8.1 and later; its memfd backend does not count). So backends of memory
//! without a name get a file of ours: a memfd, which QEMU opens by its path under /proc/self/fd,
//! or one with a name that stays.

use super::properties::Properties;
use super::{CommandLineError, Host, HugePages, MemoryFile, size};

/// What becomes of one `-object`.
pub(super) struct Rewrite {
    /// The new value of the option; `None` if it stays as it is.
    pub(super) value: Option<String>,
    /// What the user should know.
    pub(super) warning: Option<String>,
    /// Identifier, if the object is a memory backend.
    pub(super) backend_id: Option<String>,
}

/// Rewrites the value of an `-object`.
///
/// # Errors
/// When the object is a memory backend that cannot be shared, or cannot be understood.
pub(super) fn rewrite(value: &str, host: &mut impl Host) -> Result<Rewrite, CommandLineError> {
    let mut properties =
        Properties::parse(value, "qom-type").map_err(|error| CommandLineError::Unreadable {
            option: format!("-object {value}"),
            reason: error.to_string(),
        })?;
    let kind = properties.get("qom-type").unwrap_or_default();
    let Some(kind) = kind.strip_prefix("memory-backend-") else {
        return Ok(Rewrite {
            value: None,
            warning: None,
            backend_id: None,
        });
    };
    let id = properties.get("id").unwrap_or_default();
    let mut warning = None;
    let changed = match kind {
        "file" => {
            refuse_unwritable(&properties, &id)?;
            let needs_sharing = !properties.is_on("share");
            if needs_sharing {
                properties.set_on("share");
                // Of what the guest can only read that changes nothing.
                warning = (!properties.is_on("readonly")).then(|| {
                    format!(
                        "memory backend {id}: share=on was added, so that what the guest writes \
                         now goes to the file {}",
                        properties.get("mem-path").unwrap_or_default()
                    )
                });
            }
            needs_sharing
        }
        "memfd" | "ram" | "shm" => {
            back_with_memfd(&mut properties, &id, host)?;
            true
        }
        other => {
            return Err(CommandLineError::Unshareable {
                what: format!("memory backend {id}"),
                reason: format!("memory-backend-{other} has no form that can be shared"),
                remedy: "use memory-backend-ram, which pagelift makes a shared file".into(),
            });
        }
    };
    Ok(Rewrite {
        value: changed.then(|| object_text(&properties)),
        warning,
        backend_id: Some(id),
    })
}

/// The value of an `-object`, its type first and without a key as people write it.
pub(super) fn object_text(properties: &Properties) -> String {
    let text = properties.to_text();
    match text.strip_prefix("qom-type=") {
        Some(short) => short.to_owned(),
        None => text,
    }
}

/// # Errors
/// When the guest's memory cannot be written, or its disk would be written that was not before.
pub(super) fn refuse_unwritable(properties: &Properties, id: &str) -> Result<(), CommandLineError> {
    let refuse = |reason: &str, remedy: &str| {
        Err(CommandLineError::Unshareable {
            what: format!("memory backend {id}"),
            reason: reason.into(),
            remedy: remedy.into(),
        })
    };
    let is_read_only = properties.is_on("readonly");
    if is_read_only && properties.get("rom").as_deref() == Some("off") {
        return refuse(
            "its file is read-only, and what the guest writes is for itself alone",
            "remove readonly=on, with a copy of the file, or run this guest without pagelift",
        );
    }
    if !is_read_only && properties.is_on("rom") {
        return refuse(
            "it is read-only, so that its content could not be put in place on the target",
            "say readonly=on as well, for a file that both hosts have, or remove rom=on",
        );
    }
    // Others get share=on; but what a guest has not been writing to its disk so far must not go there.
    if properties.is_on("pmem") && !properties.is_on("share") && !is_read_only {
        return refuse(
            "it is persistent memory whose content the guest changes for itself alone",
            "add share=on, so that the file has what the guest writes, or run this guest without \
             pagelift",
        );
    }
    Ok(())
}

fn back_with_memfd(
    properties: &mut Properties,
    id: &str,
    host: &mut impl Host,
) -> Result<(), CommandLineError> {
    let read_size = |key: &str, text: &str| {
        size::parse(text, 1)
            .filter(|&bytes| bytes > 0)
            .ok_or_else(|| CommandLineError::Unreadable {
                option: format!("memory backend {id}: {key}={text}"),
                reason: "not a size above zero; write it like 512M or 1G".into(),
            })
    };
    let size_text = properties.get("size").unwrap_or_default();
    let size_bytes = read_size("size", &size_text)?;
    let huge_pages = match properties.get("hugetlbsize") {
        _ if !properties.is_on("hugetlb") => None,
        None => Some(HugePages::Default),
        Some(text) => {
            let bytes = read_size("hugetlbsize", &text)?;
            if !bytes.is_power_of_two() {
                return Err(CommandLineError::Unreadable {
                    option: format!("memory backend {id}: hugetlbsize={text}"),
                    reason: "not a power of two; write it like 2M or 1G".into(),
                });
            }
            Some(HugePages::OfBytes(bytes))
        }
    };
    let file = MemoryFile {
        id: id.to_owned(),
        size_bytes,
        huge_pages,
    };
    let path = super::path_of_new_file(file, host)?;
    for key in ["hugetlb", "hugetlbsize", "seal"] {
        properties.remove(key);
    }
    properties.set_text("qom-type", "memory-backend-file");
    properties.set_text("mem-path", &path);
    properties.set_on("share");
    Ok(())
}
