//! The command line.

use std::fmt;
use std::time::Duration;

use clap::Parser;
use pagelift_engine::units::{ByteCount, Rate, parse_duration};
use pagelift_tests::Workload;

use crate::methods::Method;

/// Moves the same QEMU guest by QEMU's precopy, QEMU's multifd and pagelift, in turn.
///
/// Run `cargo build --release` first: pagelift's programs are taken from beside this one.
#[derive(Debug, Parser)]
#[command(name = "qemu-side-by-side", version)]
pub(crate) struct Options {
    /// Rounds that count; one more goes before them. 0: only the bounds of the machine
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) runs: u32,
    /// The guest's memory, a whole number of MiB
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    pub(crate) memory: ByteCount,
    /// How much of it the guest fills with content that no codec can shrink
    #[arg(long, value_name = "SIZE", default_value = "1.5GiB")]
    pub(crate) fill: ByteCount,
    /// Rate of pages that the guest writes all over what it filled; `idle`; or `both`: idle, and
    /// then 40 MiB/s
    #[arg(long, value_name = "RATE", default_value = "both", value_parser = writer)]
    pub(crate) writer: Writer,
    /// Who takes turns
    #[arg(long, value_name = "NAMES", value_enum, value_delimiter = ',',
          default_values_t = Method::ALL)]
    pub(crate) methods: Vec<Method>,
    /// Longest downtime allowed, to QEMU and to pagelift alike
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_duration)]
    pub(crate) downtime: Duration,
    /// Give QEMU's own methods anonymous guest memory instead of the shared file that pagelift
    /// needs
    #[arg(long)]
    pub(crate) qemu_anonymous: bool,
    /// Take the target's memory as it comes, also from a hypervisor below that has to find it
    /// first
    #[arg(long)]
    pub(crate) cold: bool,
    /// Leave out the bounds of the machine
    #[arg(long)]
    pub(crate) skip_bounds: bool,
    /// Print one JSON object with every move instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which guests are moved.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Writer {
    /// One guest.
    One(Guest),
    /// An idle guest and one that writes.
    Both,
}

/// What a guest does besides keeping its account.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guest {
    /// Nothing.
    Idle,
    /// Writes pages at this rate.
    Writing(Rate),
}

/// What the guest of `--writer both` writes.
const RATE: Rate = Rate(40 << 20);

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Writing(rate) => write!(f, "{rate} writing"),
        }
    }
}

fn writer(text: &str) -> Result<Writer, String> {
    match text {
        "both" => Ok(Writer::Both),
        "idle" => Ok(Writer::One(Guest::Idle)),
        rate => rate
            .parse()
            .map(|rate| Writer::One(Guest::Writing(rate)))
            .map_err(|error| error.to_string()),
    }
}

impl Options {
    /// The guests to move.
    pub(crate) fn guests(&self) -> Vec<Guest> {
        match self.writer {
            _ if self.runs == 0 => Vec::new(),
            Writer::One(guest) => vec![guest],
            Writer::Both => vec![Guest::Idle, Guest::Writing(RATE)],
        }
    }

    /// What such a guest is told to do.
    pub(crate) fn workload(&self, guest: Guest) -> Workload {
        Workload {
            memory_mib: self.memory.0 >> 20,
            fill_bytes: self.fill.0,
            rate_bytes_per_s: match guest {
                Guest::Idle => 0,
                Guest::Writing(rate) => rate.0,
            },
            // Its account is full after the move; until then it shall cost little.
            check_pages: 64,
            ..Workload::default()
        }
    }
}
