//! Manages guests, and answers libvirt's RPC.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use pageliftd::config::{Config, DEFAULT_PATH};
use pageliftd::daemon::Daemon;
use pageliftd::server::Server;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

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
    pageliftd::migrate::recover(&daemon);
    let server = Server::start(daemon).context("pageliftd cannot start")?;
    for place in server.places() {
        info!("listens at {place}");
    }
    notify("READY=1");
    signals.forever().next();
    notify("STOPPING=1");
    info!("ends; guests run on");
    Ok(())
}

/// Says something to the service manager, if there is one that listens (sd_notify(3)).
fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        warn!(%error, "cannot tell the service manager");
    }
}
