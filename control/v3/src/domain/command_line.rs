//! What else QEMU is to be told: libvirt's `qemu:commandline`.

use crate::xml::{Element, Malformed, Writer};

/// The namespace of libvirt's extension for QEMU.
const NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// Arguments and environment that QEMU gets beside those that the description stands for. Nobody but
/// the user answers for them; they go along with the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    /// Arguments, appended in this order.
    pub arguments: Vec<String>,
    /// Names and values of the environment.
    pub environment: Vec<(String, String)>,
}

impl CommandLine {
    /// Whether there is nothing to tell.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.arguments.is_empty() && self.environment.is_empty()
    }

    /// Takes the extension from a domain.
    pub(super) fn read_of(domain: &mut Element<'_>) -> Result<Self, Malformed> {
        let mut line = Self::default();
        for mut element in domain.children_of(Some(NAMESPACE), "commandline") {
            for mut argument in element.children_of(Some(NAMESPACE), "arg") {
                line.arguments.push(argument.required("value")?.to_owned());
                argument.finish()?;
            }
            for mut variable in element.children_of(Some(NAMESPACE), "env") {
                let name = variable.required("name")?.to_owned();
                let value = variable.attribute("value").unwrap_or_default().to_owned();
                variable.finish()?;
                line.environment.push((name, value));
            }
            element.finish()?;
        }
        Ok(line)
    }

    /// The declaration that the root needs for what [`Self::write`] writes.
    pub(super) fn namespace(&self) -> Option<&'static str> {
        (!self.is_empty()).then_some(NAMESPACE)
    }

    pub(super) fn write(&self, w: &mut Writer) {
        if self.is_empty() {
            return;
        }
        w.element("qemu:commandline").body(|w| {
            for argument in &self.arguments {
                w.element("qemu:arg").attribute("value", argument).empty();
            }
            for (name, value) in &self.environment {
                w.element("qemu:env")
                    .attribute("name", name)
                    .attribute("value", value)
                    .empty();
            }
        });
    }
}
