//! `--log-level`, `--log-format` and RUST_LOG: events of the engine and of its drivers, on stderr.
//!
//! Every event of a migration is in the span `migration` with its id. Without options only warnings
//! are printed.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::print;

/// The variable that is read where there is no option.
const VARIABLE: &str = "RUST_LOG";

/// What to log.
#[derive(Args, Clone, Debug)]
pub struct LogOptions {
    /// Log events to stderr: off, error, warn, info, debug or trace, or for parts of the program
    /// TARGET=LEVEL,...; without it, what RUST_LOG says, and else warn
    #[arg(long, value_name = "LEVEL", value_parser = filter, global = true)]
    log_level: Option<Targets>,
    /// How to write them
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text, global = true)]
    log_format: Format,
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

impl LogOptions {
    /// Logs events from now on.
    pub fn start(&self) {
        let events = tracing_subscriber::fmt::layer()
            .with_writer(Notes)
            .with_ansi(false);
        let events = match self.log_format {
            Format::Text => events.boxed(),
            Format::Json => events
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .boxed(),
        };
        let chosen = self.log_level.clone().unwrap_or_else(by_environment);
        // There is one program in this process, and it starts once.
        let _ = tracing_subscriber::registry()
            .with(events.with_filter(chosen))
            .try_init();
    }
}

/// Reads levels. A word that is no level would be taken for a target, and is refused.
fn filter(text: &str) -> Result<Targets, String> {
    let plain = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    let targets = text.split(',').all(plain).then(|| text.parse().ok());
    targets.flatten().ok_or_else(|| {
        format!(
            "{text:?} is no level; write off, error, warn, info, debug or trace, or TARGET=LEVEL"
        )
    })
}

/// What the environment asks for; by default warnings.
fn by_environment() -> Targets {
    let asked = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    match asked.as_deref().map(filter) {
        Some(Ok(targets)) => targets,
        Some(Err(error)) => {
            print::note(format_args!("warning: {VARIABLE}: {error}"));
            warnings()
        }
        None => warnings(),
    }
}

fn warnings() -> Targets {
    Targets::new().with_default(LevelFilter::WARN)
}

/// Writes each event as a note, so that it keeps off the line of the progress and never fails.
#[derive(Clone, Copy, Debug)]
struct Notes;

impl Write for Notes {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        print::note(String::from_utf8_lossy(event).trim_end());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Notes {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_or_words_for_targets() {
        assert_eq!(
            filter("info").unwrap().default_level(),
            Some(LevelFilter::INFO)
        );
        assert!(filter("warn,pagelift_engine=debug").is_ok());
        assert_eq!(
            filter("off").unwrap().default_level(),
            Some(LevelFilter::OFF)
        );
        for text in ["loud", "pagelift=loud", "5x"] {
            let error = filter(text).unwrap_err();
            assert!(error.contains("write off, error, warn, info"), "{error}");
        }
    }
}
