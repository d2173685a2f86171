//! `pagelift demo`: a guest of our own moves from this process to another one, live.
//!
//! The guest is memory and threads that write it ([`guest`]). What they write follows from a
//! seed ([`pattern`]), so the target can prove at the end that no write was lost ([`proof`]):
//! it rebuilds the whole memory from the numbers of writes, and compares.
//!
//! ```text
//!   pagelift demo                    pagelift demo-target (started by it)
//!     [`source`]: guest, tracker  --- TCP over loopback --->  [`target`]: memory
//!                                                              guest goes on there
//!     report                      <-- one line of JSON ---     proof
//! ```

pub mod calibrate;
pub mod guest;
pub mod pattern;
mod process;
pub mod proof;
pub mod source;
pub mod target;

use clap::Args;
use pagelift_engine::units::{ByteCount, PAGE_BYTES, Rate};
use serde::{Deserialize, Serialize};

use crate::html::PageOptions;
use crate::options::{self, ConvergenceOptions};
use crate::report::Output;
use pattern::{Pattern, Script};

/// Options of `pagelift demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoOptions {
    /// Memory of the guest
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub memory: ByteCount,
    /// Share of the memory that holds incompressible content at the start, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.7)]
    pub fill: f64,
    /// Rate at which the guest writes pages, each write counted as a page; 0MiB/s: an idle guest
    #[arg(long, value_name = "RATE", default_value = "100MiB/s")]
    pub dirty_rate: Rate,
    /// Which pages it writes
    #[arg(long, value_enum, default_value_t = Pattern::Uniform)]
    pub pattern: Pattern,
    /// Bytes of one write: a multiple of 8, at most 4096
    #[arg(long, value_name = "BYTES", default_value_t = 8)]
    pub write_size: usize,
    /// vCPUs of the guest
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2,
        value_parser = clap::value_parser!(u32).range(1..=64),
    )]
    pub vcpus: u32,
    /// Seed of everything that looks random
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Cap on the rate of the link, so that rounds can be seen
    #[arg(long, value_name = "RATE", value_parser = options::rate)]
    pub link: Option<Rate>,
    /// Limits of the migration
    #[command(flatten)]
    pub convergence: ConvergenceOptions,
    /// Do not compare the digests of all memory at the switchover
    #[arg(long)]
    pub no_verify: bool,
    /// What to print
    #[command(flatten)]
    pub output: Output,
    /// The page about the move
    #[command(flatten)]
    pub page: PageOptions,
}

impl DemoOptions {
    /// The guest that these options describe.
    ///
    /// # Errors
    /// Says which option makes no sense.
    pub fn script(&self) -> Result<Script, String> {
        let pages = self.memory.0 / PAGE_BYTES as u64;
        if pages < u64::from(self.vcpus) || !self.memory.0.is_multiple_of(PAGE_BYTES as u64) {
            return Err(format!(
                "--memory {} is no multiple of 4096 bytes, or less than a page for each vCPU",
                self.memory.0
            ));
        }
        if !(0.0..=1.0).contains(&self.fill) {
            return Err(format!("--fill {} is not between 0 and 1", self.fill));
        }
        if !self.write_size.is_multiple_of(8) || !(8..=PAGE_BYTES).contains(&self.write_size) {
            let size = self.write_size;
            return Err(format!(
                "--write-size {size} is not a multiple of 8 from 8 to 4096"
            ));
        }
        Ok(Script {
            seed: self.seed,
            pages,
            filled_pages: (pages as f64 * self.fill) as u64,
            vcpus: self.vcpus,
            pattern: self.pattern,
            write_bytes: self.write_size,
        })
    }
}

/// The device state of the demo's guest.
#[derive(Debug, Serialize, Deserialize)]
struct DeviceState {
    script: Script,
    dirty_bytes_per_s: u64,
    /// Writes each vCPU has done.
    counts: Vec<u64>,
}

/// A message of the target process, one JSON object a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum TargetMessage {
    /// It listens at this address.
    Listening { address: String },
    /// The guest ran on, and its memory is what its vCPUs wrote.
    Proven {
        /// Writes of each vCPU when the guest arrived.
        arrived_with: Vec<u64>,
        /// Writes of each vCPU at the end.
        counts: Vec<u64>,
        /// Most memory it took next to the guest's.
        memory_peak_bytes: u64,
        /// What its stages did, as in a report.
        stages: serde_json::Value,
    },
    /// The guest did not arrive, or not whole.
    Failed { message: String },
}
