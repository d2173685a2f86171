//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use pagelift_engine::units::{ByteCount, Rate};
use pagelift_tests::{Content, Workload};

use crate::methods::{METHODS, Method};
use crate::scenarios::{SCENARIOS, Scenario};

/// Moves busy QEMU guests over a slow link, by pagelift and by QEMU itself with its settings, and
/// prints what it cost the guest.
///
/// Run `cargo build --release` first: pagelift's programs are taken from beside this one. It takes
/// root, for two network namespaces.
#[derive(Debug, Parser)]
#[command(name = "guest-scenarios", version)]
pub(crate) struct Options {
    /// Which guests
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = Scenario::parser(),
          default_values = SCENARIOS.map(|scenario| scenario.name), hide_default_value = true)]
    pub(crate) scenarios: Vec<Scenario>,
    /// Who moves them, and with which settings
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = Method::parser(),
          default_values = METHODS.map(|method| method.name), hide_default_value = true)]
    pub(crate) methods: Vec<Method>,
    /// Times that each guest is moved by each method, in turn
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// Time after which a move that is not over is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    limit: u64,
    /// Longest downtime allowed
    #[arg(long, value_name = "MS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    downtime_limit: u64,
    /// What the link carries, in each direction
    #[arg(long, value_name = "RATE", default_value = "1Gbit/s")]
    pub(crate) link: Rate,
    /// QEMU's accelerator; not every machine's KVM boots the guest
    #[arg(long, value_name = "NAME", default_value = "tcg")]
    pub(crate) accel: String,
    /// The guests' memory, instead of their own
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteCount>,
    /// How much of it they fill
    #[arg(long, value_name = "SIZE")]
    fill: Option<ByteCount>,
    /// How much of that they write to
    #[arg(long, value_name = "SIZE")]
    working: Option<ByteCount>,
    /// Pages that they write to, in bytes of whole pages
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// Bytes changed by one write, a power of two from 8 to 4096
    #[arg(long, value_name = "BYTES")]
    width: Option<u32>,
    /// What their pages hold
    #[arg(long, value_name = "NAME", value_parser = content())]
    content: Option<Content>,
    /// Their CPUs, with a writing thread for each, instead of their own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    cpus: Option<u32>,
    /// Cache of old contents, for settings that have one; QEMU's is rounded up to a power of two.
    /// Without it: as much as the guest writes to, and for pagelift without options its own default
    #[arg(long, value_name = "SIZE")]
    cache: Option<ByteCount>,
    /// Keep the report and the trace of every move in this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Print one JSON object with every move instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

fn content() -> impl TypedValueParser<Value = Content> {
    PossibleValuesParser::new(["random", "half"]).map(|name| match name.as_str() {
        "half" => Content::Half,
        _ => Content::Random,
    })
}

impl Options {
    /// Time after which a move is given up.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.limit)
    }

    /// Longest downtime allowed, in milliseconds.
    pub(crate) fn downtime_ms(&self) -> u64 {
        self.downtime_limit
    }

    /// Whether the size of the cache was told.
    pub(crate) fn cache_is_told(&self) -> bool {
        self.cache.is_some()
    }

    /// Cache of old contents for such a guest, in bytes.
    pub(crate) fn cache_bytes(&self, workload: &Workload) -> u64 {
        let written = workload.working_bytes.unwrap_or(workload.fill_bytes);
        self.cache.map_or(written, |bytes| bytes.0)
    }

    /// What the guest of a scenario is told to do.
    pub(crate) fn workload(&self, scenario: &Scenario) -> Workload {
        let mut workload = scenario.workload();
        if let Some(cpus) = self.cpus {
            workload.cpus = cpus;
            workload.threads = cpus;
            workload.computing = workload.computing.min(cpus - 1);
        }
        if let Some(bytes) = self.memory {
            workload.memory_mib = bytes.0 >> 20;
        }
        if let Some(bytes) = self.fill {
            workload.fill_bytes = bytes.0;
        }
        if let Some(bytes) = self.working {
            workload.working_bytes = Some(bytes.0);
        }
        workload.working_bytes = workload
            .working_bytes
            .map(|bytes| bytes.min(workload.fill_bytes));
        if let Some(rate) = self.rate {
            workload.rate_bytes_per_s = rate.0;
        }
        // The load of guestperf is one of whole pages and of its own content.
        if workload.content != Content::Guestperf {
            workload.content = self.content.unwrap_or(workload.content);
            workload.width_bytes = self.width.unwrap_or(workload.width_bytes);
        }
        workload
    }
}
