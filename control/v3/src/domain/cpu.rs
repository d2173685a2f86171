//! The processor that a guest sees.

use super::words::words;
use crate::xml::{Element, Malformed, Writer};

words! {
    /// How the processor is described.
    pub enum CpuMode {
        /// By a model and features.
        Custom = "custom",
        /// As near to the host's as can be named.
        HostModel = "host-model",
        /// The host's.
        HostPassthrough = "host-passthrough",
        /// All that the hypervisor can give.
        Maximum = "maximum",
    }
}

words! {
    /// How exactly the processor is to be as described.
    pub enum CpuMatch {
        /// It may have more.
        Minimum = "minimum",
        /// It has what is described.
        Exact = "exact",
        /// The host must have no more either.
        Strict = "strict",
    }
}

words! {
    /// What is compared before the guest starts.
    pub enum CpuCheck {
        /// Nothing.
        None = "none",
        /// The description and the host.
        Partial = "partial",
        /// The description and what QEMU made.
        Full = "full",
    }
}

words! {
    /// What a feature is to be.
    pub enum FeaturePolicy {
        /// There, whatever the host has.
        Force = "force",
        /// There.
        Require = "require",
        /// There if the host has it.
        Optional = "optional",
        /// Not there.
        Disable = "disable",
        /// Not there, and the host must not have it either.
        Forbid = "forbid",
    }
}

/// The processor that a guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// How it is described.
    pub mode: CpuMode,
    /// How exactly it is to be so; only with [`CpuMode::Custom`].
    pub matching: Option<CpuMatch>,
    /// What is compared before the guest starts.
    pub check: Option<CpuCheck>,
    /// Whether the guest may be moved though QEMU cannot know that it fits (host-passthrough).
    pub migratable: Option<bool>,
    /// The model, with [`CpuMode::Custom`].
    pub model: Option<CpuModel>,
    /// How the virtual CPUs are grouped.
    pub topology: Option<Topology>,
    /// What differs from the model.
    pub features: Vec<CpuFeature>,
}

/// A model of processors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuModel {
    /// Its name.
    pub name: String,
    /// Whether another model may stand in for it.
    pub fallback: bool,
}

/// A feature of a processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuFeature {
    /// What it is to be.
    pub policy: FeaturePolicy,
    /// Its name.
    pub name: String,
}

/// How virtual CPUs are grouped: sockets of dies of clusters of cores of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Sockets.
    pub sockets: u32,
    /// Dies of a socket.
    pub dies: u32,
    /// Clusters of a die.
    pub clusters: u32,
    /// Cores of a cluster.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

impl Default for Cpu {
    /// The processor of a guest that says nothing of one, as libvirt has it for x86.
    fn default() -> Self {
        Self {
            mode: CpuMode::Custom,
            matching: Some(CpuMatch::Exact),
            check: Some(CpuCheck::None),
            migratable: None,
            model: Some(CpuModel {
                name: "qemu64".into(),
                fallback: false,
            }),
            topology: None,
            features: Vec::new(),
        }
    }
}

impl Cpu {
    pub(crate) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let mode = element.read("mode", CpuMode::from_word)?;
        let matching = element.read("match", CpuMatch::from_word)?;
        let check = element.read("check", CpuCheck::from_word)?;
        let migratable = element.read("migratable", super::words::on_off)?;
        let model = element.child("model")?.map(CpuModel::read).transpose()?;
        let topology = element.child("topology")?.map(Topology::read).transpose()?;
        let features = element.children("feature").into_iter();
        let features = features.map(CpuFeature::read).collect::<Result<_, _>>()?;
        element.finish()?;
        let mode = mode.unwrap_or(CpuMode::Custom);
        let custom = mode == CpuMode::Custom;
        let model = match (custom, model) {
            (true, None) => Self::default().model,
            (_, model) => model,
        };
        Ok(Self {
            mode,
            matching: custom.then_some(matching.unwrap_or(CpuMatch::Exact)),
            check: Some(check.unwrap_or(if custom {
                CpuCheck::Partial
            } else {
                CpuCheck::None
            })),
            migratable: migratable.or_else(|| (mode == CpuMode::HostPassthrough).then_some(true)),
            model,
            topology,
            features,
        })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.element("cpu")
            .attribute("mode", self.mode)
            .attribute_of("match", self.matching)
            .attribute_of("check", self.check)
            .attribute_of("migratable", self.migratable.map(super::words::on_or_off))
            .body(|w| {
                if let Some(model) = &self.model {
                    let fallback = if model.fallback { "allow" } else { "forbid" };
                    w.element("model")
                        .attribute("fallback", fallback)
                        .text(&model.name);
                }
                if let Some(t) = &self.topology {
                    w.element("topology")
                        .attribute("sockets", t.sockets)
                        .attribute("dies", t.dies)
                        .attribute("clusters", t.clusters)
                        .attribute("cores", t.cores)
                        .attribute("threads", t.threads)
                        .empty();
                }
                for feature in &self.features {
                    w.element("feature")
                        .attribute("policy", feature.policy)
                        .attribute("name", &feature.name)
                        .empty();
                }
            });
    }
}

impl CpuModel {
    fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let fallback = element.read("fallback", |word| match word {
            "allow" => Some(true),
            "forbid" => Some(false),
            _ => None,
        })?;
        let name = element.text().trim().to_owned();
        if name.is_empty() {
            return Err(element.invalid(name));
        }
        element.finish()?;
        Ok(Self {
            name,
            fallback: fallback.unwrap_or(true),
        })
    }
}

impl CpuFeature {
    fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let policy = element.read("policy", FeaturePolicy::from_word)?;
        let name = element.required("name")?.to_owned();
        element.finish()?;
        Ok(Self {
            policy: policy.unwrap_or(FeaturePolicy::Require),
            name,
        })
    }
}

impl Topology {
    fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let count = |text: &str| text.parse().ok().filter(|n| (1..=4096_u32).contains(n));
        let mut part = |name| element.read(name, count).map(|n| n.unwrap_or(1));
        let topology = Self {
            sockets: part("sockets")?,
            dies: part("dies")?,
            clusters: part("clusters")?,
            cores: part("cores")?,
            threads: part("threads")?,
        };
        element.finish()?;
        Ok(topology)
    }

    /// The virtual CPUs that the groups hold together.
    #[must_use]
    pub fn vcpus(&self) -> u64 {
        [
            self.sockets,
            self.dies,
            self.clusters,
            self.cores,
            self.threads,
        ]
        .iter()
        .fold(1, |product: u64, n| product.saturating_mul(u64::from(*n)))
    }
}
