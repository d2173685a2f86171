//! Options that several programs share, and how their values are read.

use std::time::Duration;

use clap::Args;
use pagelift_engine::units::{ParseQuantityError, Rate, parse_duration};
use pagelift_engine::wire::{MAX_CHANNELS, SessionId};
use pagelift_transports::auto_channels;
use rustix::rand::{GetRandomFlags, getrandom};

/// How long a migration may take and how hard it may try.
#[derive(Args, Clone, Debug)]
pub struct ConvergenceOptions {
    /// Longest blackout allowed
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = duration)]
    pub downtime: Duration,
    /// Longest time for the whole migration; then the guest stays where it is
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
    /// Data connections: a number, or auto
    #[arg(long, value_name = "N", default_value = "auto", value_parser = channels)]
    pub channels: u16,
}

/// Reads a time span.
///
/// # Errors
/// When it is none.
pub fn duration(text: &str) -> Result<Duration, ParseQuantityError> {
    parse_duration(text)
}

/// Reads a rate, which must not be zero.
///
/// # Errors
/// When it is none.
pub fn rate(text: &str) -> Result<Rate, String> {
    match text.parse::<Rate>() {
        Ok(Rate(0)) => Err("a rate of zero would never end; leave the option out".into()),
        Ok(rate) => Ok(rate),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads a number of channels.
fn channels(text: &str) -> Result<u16, String> {
    if text == "auto" {
        return Ok(auto_channels());
    }
    text.parse()
        .ok()
        .filter(|count| (1..=MAX_CHANNELS).contains(count))
        .ok_or_else(|| format!("write a number from 1 to {MAX_CHANNELS}, or auto"))
}

/// A name for a migration that no other one has.
pub fn random_session() -> SessionId {
    let mut bytes = [0; 16];
    // Getting 16 bytes fails only before the kernel has any entropy; then zeros must do, and a
    // second migration to the same target at the same moment would be refused.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    SessionId(u128::from_le_bytes(bytes))
}
