//! What a file given with `-readconfig` says about memory.
//!
//! Such a file has sections `[group]` or `[group "id"]` of lines `key = "value"`; `#` begins a
//! comment line. QEMU reads the file itself, so nothing in it can be rewritten: memory that
//! it defines must be shared already.

use super::backend::refuse_unwritable;
use super::properties::Properties;
use super::{CommandLineError, size};

/// What concerns memory in one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Config {
    /// The file names the backend of the machine's memory.
    pub(super) has_main_memory: bool,
    /// The file gives the size of memory, in bytes.
    pub(super) size_bytes: Option<u64>,
    /// Identifiers of the backends it defines, all of them shared files.
    pub(super) backend_ids: Vec<String>,
}

/// Reads the text of the file called `name`.
///
/// # Errors
/// When the file defines memory that is not a shared file.
pub(super) fn examine(name: &str, text: &str) -> Result<Config, CommandLineError> {
    let mut config = Config::default();
    for section in sections(text) {
        match section.group.as_str() {
            "machine" => config.has_main_memory |= section.get("memory-backend").is_some(),
            "memory" => {
                if let Some(text) = section.get("size") {
                    config.size_bytes = size::parse(&text, 1 << 20);
                }
            }
            "numa" => config.has_main_memory |= section.get("memdev").is_some(),
            "object" => {
                let kind = section.get("qom-type").unwrap_or_default();
                if !kind.starts_with("memory-backend-") {
                    continue;
                }
                if kind != "memory-backend-file" || !section.properties.is_on("share") {
                    return Err(CommandLineError::Unshareable {
                        what: format!("memory backend {}", section.id),
                        reason: format!("{name} defines it, and not as a shared file"),
                        remedy: "give it on the command line with -object, where pagelift \
                                 rewrites it, or make it a memory-backend-file with share = \"on\""
                            .into(),
                    });
                }
                refuse_unwritable(&section.properties, &section.id)?;
                config.backend_ids.push(section.id);
            }
            _ => {}
        }
    }
    Ok(config)
}

struct Section {
    group: String,
    id: String,
    properties: Properties,
}

impl Section {
    fn get(&self, key: &str) -> Option<String> {
        self.properties.get(key)
    }
}

fn sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(head) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            let (group, id) = head.split_once(' ').unwrap_or((head, ""));
            sections.push(Section {
                group: group.trim().to_owned(),
                id: id.trim().trim_matches('"').to_owned(),
                properties: Properties::KeyValue(Vec::new()),
            });
        } else if !line.starts_with('#')
            && let Some((key, value)) = line.split_once('=')
            && let Some(section) = sections.last_mut()
        {
            section
                .properties
                .set_text(key.trim(), value.trim().trim_matches('"'));
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shared_backends_are_understood() {
        let text = "# a comment\n[memory]\n  size = \"80\"\n\n[object \"m0\"]\n\
                    qom-type = \"memory-backend-file\"\nshare = \"on\"\n\
                    [machine]\ntype = \"q35\"\nmemory-backend = \"m0\"\n[device \"d\"]\nx = \"y\"";
        assert_eq!(
            examine("f", text).unwrap(),
            Config {
                has_main_memory: true,
                size_bytes: Some(80 << 20),
                backend_ids: vec!["m0".into()],
            }
        );
        assert_eq!(examine("f", "").unwrap(), Config::default());
        assert_eq!(examine("f", "size = \"1\"\n[").unwrap(), Config::default());
    }

    #[test]
    fn other_backends_are_refused_by_name() {
        for body in [
            "qom-type = \"memory-backend-ram\"",
            "qom-type = \"memory-backend-file\"",
            "qom-type = \"memory-backend-file\"\npmem = \"on\"",
        ] {
            let text = format!("[object \"m7\"]\n{body}\n");
            let error = examine("vm.cfg", &text).unwrap_err().to_string();
            assert!(error.contains("memory backend m7"), "{error}");
        }
    }
}
