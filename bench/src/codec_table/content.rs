//! What the memory holds.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use pagelift_bench::pages;
use pagelift_engine::units::{ByteCount, PAGE_BYTES};
use serde::Serialize;

/// Pages after which the content repeats: 64 MiB. No codec sees further back than a frame.
const PERIOD_PAGES: u64 = 16 << 10;

const SEED: u64 = 7;

/// A kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Content {
    /// A tenth zero; text, code, heap and random in even parts.
    Mixed,
    /// Random.
    Incompressible,
    /// Nine tenths zero, the rest as in mixed.
    MostlyZero,
}

impl Content {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 3] = [Self::Mixed, Self::Incompressible, Self::MostlyZero];

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mixed => "mixed",
            Self::Incompressible => "incompressible",
            Self::MostlyZero => "mostly zero",
        }
    }

    /// Fills a file of `bytes` bytes with it. Every page is written, those of zeros as well.
    pub(crate) fn fill(self, path: &Path, bytes: ByteCount) -> Result<()> {
        let pages = (bytes.0 / PAGE_BYTES as u64).min(PERIOD_PAGES) as usize;
        let piece = match self {
            Self::Mixed => pages::Content::Mixed.pages(pages, SEED),
            Self::Incompressible => pages::Content::Random.pages(pages, SEED),
            Self::MostlyZero => pages::mixed(pages, 9, SEED),
        };
        let file = OpenOptions::new().write(true).open(path);
        let file = file.with_context(|| format!("{}", path.display()))?;
        for at in (0..bytes.0).step_by(piece.len()) {
            let len = piece.len().min((bytes.0 - at) as usize);
            file.write_all_at(&piece[..len], at)
                .context("filling the source's memory")?;
        }
        Ok(())
    }
}
