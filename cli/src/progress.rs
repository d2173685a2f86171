//! What a person sees while a guest moves: a line that is rewritten on a terminal, and a line
//! a second elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::migration::{Phase, SourceStatus};

use crate::say;

/// Least time between two updates on a terminal.
const ON_TERMINAL: Duration = Duration::from_millis(100);

/// Least time between two lines elsewhere.
const IN_LOG: Duration = Duration::from_secs(1);

/// Shows where a migration is, on stderr.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    shown: Option<Instant>,
    round: u32,
    /// Pages of the round when it began.
    round_pages: u64,
    forced: bool,
    quiet: bool,
}

impl Progress {
    /// A display; a quiet one shows nothing.
    pub fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self {
            bar,
            shown: None,
            round: 0,
            round_pages: 0,
            forced: false,
            quiet,
        }
    }

    /// Says something once.
    pub fn say(&self, words: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.println(words),
            None => say::note(words),
        }
    }

    /// Takes note of where the migration is; shows it now and then.
    pub fn update(&mut self, status: &SourceStatus) {
        if status.round != self.round {
            self.round = status.round;
            self.round_pages = status.left.0;
        }
        if status.forced && !std::mem::replace(&mut self.forced, true) {
            let forecast = forecast(status);
            self.say(&format!(
                "the deadline is over: the guest is stopped now, for about {forecast} by the \
                 forecast"
            ));
        }
        let pause = if self.bar.is_some() {
            ON_TERMINAL
        } else {
            IN_LOG
        };
        if self.quiet || self.shown.is_some_and(|shown| shown.elapsed() < pause) {
            return;
        }
        self.shown = Some(Instant::now());
        let words = describe(status);
        match &self.bar {
            Some(bar) => {
                bar.set_length(self.round_pages.max(1));
                bar.set_position(self.round_pages.saturating_sub(status.left.0));
                bar.set_message(words);
            }
            None => say::note(words),
        }
    }

    /// Takes the display away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn forecast(status: &SourceStatus) -> String {
    status
        .forecast
        .map_or_else(|| "-".into(), |span| format!("{span}"))
}

fn describe(status: &SourceStatus) -> String {
    let (round, sent, left) = (status.round, status.sent, status.left.bytes());
    match status.phase {
        Phase::Handshake | Phase::Preparing => return "waiting for the target".into(),
        Phase::Precopy { .. } | Phase::Failed => {}
        _ => return format!("round {round} (last)  sent {sent}"),
    }
    let mut words = format!("round {round}  sent {sent}  left {left}");
    if status.throttle > ThrottleShare::NONE {
        words += &format!("  throttled to {}", status.throttle);
    }
    if let Some(convergence) = &status.convergence {
        words += &format!("; at its beginning: {convergence}");
    }
    words
}
