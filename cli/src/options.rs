//! Options that several programs share, and how their values are read.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use pagelift_engine::codec::CompressSetting;
use pagelift_engine::codec::choose::CpuLimit;
use pagelift_engine::codec::reference::ReferenceSetting;
use pagelift_engine::converge::{
    Classic, ClassicConfig, Policy, Predictive, PredictiveConfig, Share, StopWhenFits,
    StopWhenFitsConfig,
};
use pagelift_engine::memory::{PageBitmap, ReadPages};
use pagelift_engine::pipeline::{Deltas, memory_budget, packing_budget, reference_budget};
use pagelift_engine::units::{ByteCount, ParseQuantityError, Rate, parse_duration};
use pagelift_engine::wire::{MAX_CHANNELS, SessionId};
use pagelift_transports::auto_channels;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::delta_cache::DeltaCacheSize;
use crate::trace::Tracing;

/// How long a migration may take and how hard it may try.
#[derive(Args, Clone, Debug)]
pub struct ConvergenceOptions {
    /// Longest blackout allowed; FROM..TO lets it grow towards the end of the time
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = downtime)]
    pub downtime: Downtime,
    /// Longest time for the whole migration; then the guest stays where it is
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
    /// What to do about a guest that writes faster than the link carries
    #[arg(long, value_enum, default_value_t = PolicyName::Predictive)]
    pub policy: PolicyName,
    /// Largest share of its time, in per cent, that the guest may be kept from running
    #[arg(long, value_name = "PERCENT", default_value_t = 95,
          value_parser = clap::value_parser!(u16).range(0..=99))]
    pub max_throttle: u16,
    /// Record what the policy sees and decides, for `pagelift replay`
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// How to compress pages: auto, none, lz4, zstd, zstd:LEVEL, xbzrle
    #[arg(long, value_name = "HOW", default_value_t = CompressSetting::Auto)]
    pub compress: CompressSetting,
    /// Most processor time for sending, of one processor: 50%, or 150% for one and a half
    #[arg(long, value_name = "PERCENT", value_parser = cpu_limit)]
    pub cpu_limit: Option<CpuLimit>,
    /// Memory for the contents that deltas are made against (--compress auto and xbzrle): a size,
    /// or auto: room for all of the guest's pages, but at most an eighth of the memory available
    #[arg(long, value_name = "SIZE", default_value = "auto")]
    pub delta_cache: DeltaCacheSize,
    /// Send pages that the target has already (pagelift-receive --have, or elsewhere in the
    /// guest) as references: auto (where it pays), on, off
    #[arg(long, value_name = "WHEN", default_value_t = ReferenceSetting::Auto)]
    pub references: ReferenceSetting,
    /// Data connections: a number, or auto
    #[arg(long, value_name = "N", default_value = "auto", value_parser = channels)]
    pub channels: u16,
}

/// The policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PolicyName {
    /// Throttle only when it must, as little as will do, and release again
    Predictive,
    /// Auto-converge as QEMU has it
    Classic,
    /// Never throttle
    None,
}

/// The blackout that is allowed, at first and at the end of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downtime {
    /// At first.
    pub least: Duration,
    /// At the end.
    pub most: Duration,
}

impl ConvergenceOptions {
    /// What a source needs to move the guest with `memory` under these options.
    ///
    /// # Errors
    /// When the memory for deltas is too little, or the trace cannot be written.
    pub fn effort(&self, memory: &dyn ReadPages) -> anyhow::Result<Effort> {
        let layout = memory.layout();
        let mut budget = memory_budget(layout, self.channels);
        budget += packing_budget(self.compress, self.channels);
        budget += reference_budget(self.references, layout);
        let cache = self.delta_cache.for_guest(layout.pages());
        let deltas = match self.compress {
            CompressSetting::Fixed(_) => None,
            // What is too little for this guest's deltas is no reason not to move it.
            CompressSetting::Auto => Deltas::new(layout.pages(), cache).ok(),
            CompressSetting::Xbzrle => Some(Deltas::new(layout.pages(), cache)?),
        };
        if let Some(deltas) = &deltas {
            budget += deltas.footprint();
        }
        let policy = self
            .policy
            .build(self.downtime, self.timeout, self.max_throttle);
        let policy: Box<dyn Policy> = match &self.trace {
            None => policy,
            Some(path) => {
                let mut first_round = PageBitmap::new(layout.pages());
                memory.populated(&mut first_round)?;
                Box::new(Tracing::new(policy, path, first_round.count())?)
            }
        };
        Ok(Effort {
            policy,
            compress: self.compress,
            cpu: self.cpu_limit.unwrap_or_default(),
            references: self.references,
            deltas: deltas.map(Arc::new),
            budget,
        })
    }
}

/// What a source works with, by its options.
#[derive(Debug)]
pub struct Effort {
    /// When to stop the guest, or to give up.
    pub policy: Box<dyn Policy>,
    /// How pages are compressed.
    pub compress: CompressSetting,
    /// How much of the processors sending may use.
    pub cpu: CpuLimit,
    /// Whether pages that the target has go as references.
    pub references: ReferenceSetting,
    /// How pages are sent that change again.
    pub deltas: Option<Arc<Deltas>>,
    /// Most memory it may all take, next to the guest's.
    pub budget: ByteCount,
}

impl PolicyName {
    /// The policy of this name, with these limits.
    pub fn build(
        self,
        downtime: Downtime,
        timeout: Duration,
        max_throttle: u16,
    ) -> Box<dyn Policy> {
        match self {
            Self::Predictive => Box::new(Predictive::new(PredictiveConfig {
                downtime: downtime.least,
                downtime_most: downtime.most,
                timeout,
                throttle_most: Share::permille(max_throttle * 10),
                ..PredictiveConfig::default()
            })),
            Self::Classic => Box::new(Classic::new(ClassicConfig {
                downtime: downtime.least,
                timeout,
                // Within 0 to 99 by the option's range.
                max_cpu_throttle: u8::try_from(max_throttle).unwrap_or(99),
                ..ClassicConfig::default()
            })),
            Self::None => Box::new(StopWhenFits::new(StopWhenFitsConfig {
                downtime: downtime.least,
                timeout,
                ..StopWhenFitsConfig::default()
            })),
        }
    }
}

/// Reads a time span.
///
/// # Errors
/// When it is none.
pub fn duration(text: &str) -> Result<Duration, ParseQuantityError> {
    parse_duration(text)
}

/// Reads a downtime: a time span, or two with `..` between them.
///
/// # Errors
/// When it is neither, or the second is the shorter one.
pub fn downtime(text: &str) -> Result<Downtime, String> {
    let span = |text: &str| parse_duration(text).map_err(|error| error.to_string());
    match text.split_once("..") {
        None => span(text).map(|time| Downtime {
            least: time,
            most: time,
        }),
        Some((least, most)) => {
            let downtime = Downtime {
                least: span(least)?,
                most: span(most)?,
            };
            if downtime.most < downtime.least {
                return Err(format!("{text}: the second time must be the longer one"));
            }
            Ok(downtime)
        }
    }
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

/// Reads a limit of processor time, in per cent of one processor.
///
/// # Errors
/// When it is none.
pub fn cpu_limit(text: &str) -> Result<CpuLimit, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let percent = number.parse().map_err(|_| {
        format!(
            "{text:?} is no share of a processor; write 50% for half of one, or 150% for one and \
             a half"
        )
    })?;
    Ok(CpuLimit {
        threads: None,
        percent: Some(percent),
    })
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
    // Without entropy zero must do, and a second migration to the same target at the same moment
    // would be refused.
    SessionId(random_number())
}

/// A number that nobody can guess; 0 if the kernel has no entropy yet, just after it started.
pub fn random_number() -> u128 {
    let mut bytes = [0; 16];
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    u128::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_processors_is_in_percent() {
        let limit = |text| cpu_limit(text).map(|limit| limit.percent.map(|percent| percent.get()));
        assert_eq!(limit("50%"), Ok(Some(50)));
        assert_eq!(limit("150"), Ok(Some(150)));
        for text in ["0", "0%", "-5%", "half", "", "%", "1e2", "70000"] {
            let error = cpu_limit(text).unwrap_err();
            assert!(
                error.starts_with(&format!("{text:?} is no share")),
                "{error}"
            );
            assert!(error.contains("write 50%"), "{error}");
        }
    }

    #[test]
    fn a_downtime_is_one_time_or_a_growing_pair() {
        let ms = Duration::from_millis;
        assert_eq!(
            downtime("50ms"),
            Ok(Downtime {
                least: ms(50),
                most: ms(50)
            })
        );
        assert_eq!(
            downtime("50ms..2s"),
            Ok(Downtime {
                least: ms(50),
                most: ms(2000)
            })
        );
        assert!(downtime("2s..50ms").is_err());
        assert!(downtime("..").is_err());
    }
}
