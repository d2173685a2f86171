//! The command line.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use pagelift_engine::codec::CompressSetting;
use pagelift_engine::codec::select::CpuLimit;
use pagelift_engine::job::default_channels;
use pagelift_engine::units::{ByteCount, PAGE_BYTES, Rate};

use crate::content::Content;

/// Moves memory over links of several rates with every codec setting, and prints the table.
///
/// Run it as root: links with a rate are made of network namespaces.
#[derive(Debug, Parser)]
#[command(name = "codec-table", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// Runs of each cell, in turn; the median counts
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Rates of the link, or uncapped
    #[arg(
        long,
        value_name = "RATES",
        value_delimiter = ',',
        default_value = "100Mbit/s,1Gbit/s,10Gbit/s,uncapped"
    )]
    links: Vec<LinkRate>,
    /// What the memory holds
    #[arg(long, value_name = "NAMES", value_enum, value_delimiter = ',',
          default_values_t = Content::ALL)]
    pub(crate) contents: Vec<Content>,
    /// Codec settings, as `--compress` of `pagelift-send` has them
    #[arg(
        long,
        value_name = "SETTINGS",
        value_delimiter = ',',
        default_value = "none,lz4,zstd:-50,zstd:-20,zstd:1,zstd:3,zstd:7,auto"
    )]
    pub(crate) settings: Vec<CompressSetting>,
    /// Another build of this program, whose auto takes turns with the settings, as `before`
    #[arg(long, value_name = "PROGRAM")]
    before: Option<PathBuf>,
    /// What the source does
    #[command(flatten)]
    pub(crate) sending: Sending,
    /// Threads of this program that keep a processor busy each during all moves
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) burners: u16,
    /// Memory to move; by default 64 MiB up to 200 Mbit/s, 512 MiB up to 2 Gbit/s, else 2 GiB, and
    /// four times that if it is mostly zero, but at most 4 GiB
    #[arg(long, value_name = "SIZE", value_parser = whole_pages)]
    memory: Option<ByteCount>,
    /// Only see that it works: 16 MiB, once, over an uncapped link
    #[arg(long, conflicts_with_all = ["runs", "links", "memory"])]
    quick: bool,
    /// Print one JSON object with every run instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// One end of a move, as the program starts it
    #[command(subcommand)]
    pub(crate) end: Option<End>,
}

/// What the source does beside packing.
#[derive(Clone, Debug, Args)]
pub(crate) struct Sending {
    /// Data connections; as many as pagelift-send takes by default if it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) channels: Option<u16>,
    /// How much of the processors the source may use, as `--cpu-limit` of `pagelift-send` has it
    #[arg(long, value_name = "LIMIT")]
    pub(crate) cpu_limit: Option<CpuLimit>,
    /// Pages that the guest writes, in bytes of whole pages; its vCPU then keeps a processor busy
    #[arg(long, value_name = "RATE")]
    pub(crate) guest_writes: Option<Rate>,
}

impl Sending {
    /// Data connections.
    pub(crate) fn channels(&self) -> u16 {
        self.channels.unwrap_or_else(default_channels)
    }

    /// The same as words of a command line.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = vec!["--channels".to_owned(), self.channels().to_string()];
        if let Some(limit) = self.cpu_limit {
            words.extend(["--cpu-limit".to_owned(), limit.to_string()]);
        }
        if let Some(rate) = self.guest_writes {
            words.extend(["--guest-writes".to_owned(), format!("{}B/s", rate.0)]);
        }
        words
    }
}

/// What moves the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The way to compress.
    pub(crate) compress: CompressSetting,
    /// Another build of this program, if it is not this one.
    pub(crate) program: Option<PathBuf>,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.program {
            Some(_) => f.write_str("before"),
            None => self.compress.fmt(f),
        }
    }
}

/// What the program does when it has started itself as one end of a move.
#[derive(Clone, Debug, Subcommand)]
#[command(hide = true)]
pub(crate) enum End {
    /// Sends the memory in a file.
    Source {
        /// The file.
        #[arg(long)]
        memory: PathBuf,
        /// Where the target listens.
        #[arg(long)]
        host: Ipv4Addr,
        /// Its port.
        #[arg(long)]
        port: u16,
        /// The codec setting.
        #[arg(long)]
        compress: CompressSetting,
        /// The rest.
        #[command(flatten)]
        sending: Sending,
    },
    /// Receives memory into a file.
    Target {
        /// The file.
        #[arg(long)]
        memory: PathBuf,
        /// The address to listen on.
        #[arg(long)]
        host: Ipv4Addr,
    },
}

/// Most memory by default: there are two files of it.
const MOST_MIB: u64 = 4096;

/// What the link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkRate {
    /// So much in each direction, Ethernet headers included.
    Capped(Rate),
    /// What the machine can do.
    Uncapped,
}

impl LinkRate {
    /// Bits per second, if it is limited.
    pub(crate) fn bits_per_s(self) -> Option<u64> {
        match self {
            Self::Capped(rate) => Some(rate.0.saturating_mul(8)),
            Self::Uncapped => None,
        }
    }
}

impl FromStr for LinkRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "uncapped" => Ok(Self::Uncapped),
            rate => match rate.parse() {
                Ok(Rate(0)) => Err("a rate of zero would never end; write uncapped".into()),
                Ok(rate) => Ok(Self::Capped(rate)),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

impl fmt::Display for LinkRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(bits_per_s) = self.bits_per_s() else {
            return f.write_str("uncapped");
        };
        let mbit_per_s = bits_per_s as f64 / 1e6;
        if mbit_per_s >= 1000.0 {
            write!(f, "{} Gbit/s", mbit_per_s / 1000.0)
        } else {
            write!(f, "{mbit_per_s} Mbit/s")
        }
    }
}

impl Options {
    /// The links, in this order.
    pub(crate) fn links(&self) -> Vec<LinkRate> {
        if self.quick {
            vec![LinkRate::Uncapped]
        } else {
            self.links.clone()
        }
    }

    /// What takes turns.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let settings = self.settings.iter().map(|compress| Setting {
            compress: *compress,
            program: None,
        });
        let before = self.before.iter().map(|program| Setting {
            compress: CompressSetting::Auto,
            program: Some(program.clone()),
        });
        settings.chain(before).collect()
    }

    /// Runs of each cell.
    pub(crate) fn runs(&self) -> u32 {
        if self.quick { 1 } else { self.runs }
    }

    /// Memory to move over such a link: so much that a raw move takes one to six seconds.
    pub(crate) fn memory(&self, link: LinkRate, content: Content) -> ByteCount {
        if self.quick {
            return ByteCount(16 << 20);
        }
        self.memory.unwrap_or_else(|| {
            let mib = match link.bits_per_s() {
                Some(..=200_000_000) => 64,
                Some(..=2_000_000_000) => 512,
                Some(_) | None => 2048,
            };
            let times = match content {
                Content::MostlyZero => 4,
                Content::Mixed | Content::Incompressible => 1,
            };
            ByteCount((mib * times).min(MOST_MIB) << 20)
        })
    }
}

fn whole_pages(text: &str) -> Result<ByteCount, String> {
    let bytes: ByteCount = text.parse().map_err(|error| format!("{error}"))?;
    if bytes.0 == 0 || !bytes.0.is_multiple_of(PAGE_BYTES as u64) {
        return Err(format!("{text} is not a whole number of pages of 4 KiB"));
    }
    Ok(bytes)
}
