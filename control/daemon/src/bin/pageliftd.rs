//! Manages guests, and answers libvirt's RPC.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use pageliftd::config::{Config, DEFAULT_PATH};
use pageliftd::daemon::Daemon;
use pageliftd::server::Server;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::info;

/// Manages guests, and answers libvirt's RPC.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The configuration; without it /etc/pagelift/pageliftd.toml if that is there, else defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only says whether the configuration can be used.
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let config = match &options.config {
        Some(path) => Config::load(path)?,
        None if PathBuf::from(DEFAULT_PATH).exists() => Config::load(DEFAULT_PATH.as_ref())?,
        None => Config::default(),
    };
    if options.check {
        return Ok(());
    }
    // Before the first thread, so that a signal finds its handler.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let daemon = Arc::new(Daemon::new(config)?);
    let server = Server::start(daemon).context("pageliftd cannot start")?;
    for place in server.places() {
        info!("listens at {place}");
    }
    signals.forever().next();
    info!("ends; guests run on");
    Ok(())
}
