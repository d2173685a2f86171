//! Progress while a guest moves: one line that is rewritten on a terminal, and elsewhere a
//! short line a second at most. Why the migration is not done yet is explained in full only when
//! that changes.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pagelift_engine::converge::{ConvergenceStatus, ThrottleShare};
use pagelift_engine::migration::{Phase, SourceStatus, TargetStatus};

use crate::print;
use crate::report::ms;

/// Least time between two updates on a terminal.
const ON_TERMINAL: Duration = Duration::from_millis(100);

/// Least time between two lines elsewhere.
const IN_LOG: Duration = Duration::from_secs(1);

/// Least time between two explanations.
const EXPLANATIONS: Duration = Duration::from_secs(5);

/// Shows where a migration is, on stderr.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    shown: Option<Instant>,
    round: u32,
    /// Pages of the round when it began.
    round_pages: u64,
    forced: bool,
    explained: Option<(Outlook, Instant)>,
    quiet: bool,
}

/// What a migration is heading for; each is worth an explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    /// It will fit the limit as it is.
    Converges,
    /// It will under a stronger throttle.
    NeedsThrottle,
    /// No throttle makes it fit.
    Hopeless,
}

impl Progress {
    /// A display; a quiet one shows nothing.
    pub fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{elapsed:>4}  {bar:12}  {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            print::keep_off(Some(bar.clone()));
            bar
        });
        Self {
            bar,
            shown: None,
            round: 0,
            round_pages: 0,
            forced: false,
            explained: None,
            quiet,
        }
    }

    /// Prints a line of its own.
    pub fn note(&self, words: &str) {
        if !self.quiet {
            print::note(words);
        }
    }

    /// Takes note of where the source is, and shows it now and then.
    pub fn update(&mut self, status: &SourceStatus) {
        if status.round != self.round {
            self.round = status.round;
            self.round_pages = status.left.0;
        }
        if status.forced && !std::mem::replace(&mut self.forced, true) {
            let forecast = status
                .forecast
                .map_or_else(|| "-".into(), |interval| format!("{interval}"));
            self.note(&format!(
                "the deadline is over: the guest is stopped now, for about {forecast} by the \
                 forecast"
            ));
        }
        self.explain(status);
        if let Some(bar) = &self.bar {
            bar.set_length(self.round_pages.max(1));
            bar.set_position(self.round_pages.saturating_sub(status.left.0));
        }
        self.show(|| describe(status));
    }

    /// Takes note of where the target is, and shows it now and then.
    pub fn update_target(&mut self, status: &TargetStatus) {
        if status.round > 0 {
            self.show(|| format!("round {}  received {}", status.round, status.received));
        }
    }

    /// Takes the display away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            print::keep_off(None);
            bar.finish_and_clear();
        }
    }

    /// Shows a line, if the last one was long enough ago.
    fn show(&mut self, words: impl FnOnce() -> String) {
        let pause = match self.bar {
            Some(_) => ON_TERMINAL,
            None => IN_LOG,
        };
        if self.quiet || self.shown.is_some_and(|shown| shown.elapsed() < pause) {
            return;
        }
        self.shown = Some(Instant::now());
        match &self.bar {
            Some(bar) => bar.set_message(words()),
            None => print::note(words()),
        }
    }

    /// Says why the migration is not done yet, if it is heading for something else than when that
    /// was said last.
    fn explain(&mut self, status: &SourceStatus) {
        let (Phase::Precopy { .. }, Some(convergence)) = (status.phase, &status.convergence) else {
            return;
        };
        let Some(outlook) = Outlook::of(convergence) else {
            return;
        };
        let stands =
            |(said, at): (Outlook, Instant)| said == outlook || at.elapsed() < EXPLANATIONS;
        if !self.explained.is_some_and(stands) {
            self.explained = Some((outlook, Instant::now()));
            self.note(&format!("not done yet: {convergence}"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Outlook {
    /// `None`: too little is known, or the guest may be stopped as it is.
    fn of(status: &ConvergenceStatus) -> Option<Self> {
        let (downtime, ..) = (status.downtime?, status.dirty?, status.link?);
        if downtime.high() <= status.limit {
            return None;
        }
        Some(match (&status.as_it_is, &status.throttled) {
            (Some(_), _) => Self::Converges,
            (None, Some(_)) => Self::NeedsThrottle,
            (None, None) => Self::Hopeless,
        })
    }
}

/// Where the source is; what matters most comes first, where a narrow terminal shows it.
fn describe(status: &SourceStatus) -> String {
    let (round, sent, left) = (status.round, status.sent, status.left.bytes());
    match status.phase {
        Phase::Handshake | Phase::Preparing => return "waiting for the target".into(),
        Phase::Precopy { .. } | Phase::Failed => {}
        _ => return format!("round {round} (last)  sent {sent}"),
    }
    let mut words = format!("round {round}  left {left}");
    if let Some(link) = status.link {
        words += &format!("  {link}");
    }
    if status.throttle > ThrottleShare::NONE {
        words += &format!("  throttled to {}", status.throttle);
    }
    if let Some(forecast) = status.forecast {
        words += &format!("  downtime {:.0} ms", ms(forecast.likely()));
    }
    words += &format!("  sent {sent}");
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagelift_engine::converge::Interval;
    use pagelift_engine::migration::SourceStages;
    use pagelift_engine::units::{ByteCount, PageCount, Rate};

    fn status() -> SourceStatus {
        SourceStatus {
            phase: Phase::Precopy { round: 12 },
            round: 12,
            left: PageCount(100_000),
            sent: ByteCount(123 << 30),
            dirty: None,
            link: Some(Rate(1000 << 20)),
            forecast: Some(Interval::exactly(Duration::from_millis(1293))),
            limit: Duration::from_millis(50),
            convergence: None,
            forced: false,
            throttle: ThrottleShare::permille(950),
            stages: SourceStages::default(),
        }
    }

    #[test]
    fn a_line_is_short() {
        let line = describe(&status());
        assert_eq!(
            line,
            "round 12  left 390.6 MiB  1000.0 MiB/s  throttled to 95 %  downtime 1293 ms  sent \
             123.0 GiB"
        );
    }

    #[test]
    fn only_another_outlook_is_explained_again() {
        let exactly = |ms| Some(Interval::exactly(Duration::from_millis(ms)));
        let mut status = ConvergenceStatus {
            left: ByteCount(0),
            dirty: Some(Rate(1)),
            link: Some(Rate(1)),
            downtime: exactly(60),
            limit: Duration::from_millis(50),
            throttle: ThrottleShare::NONE,
            as_it_is: None,
            throttled: None,
            delta_share: None,
        };
        assert_eq!(Outlook::of(&status), Some(Outlook::Hopeless));
        status.left = ByteCount(1000);
        assert_eq!(Outlook::of(&status), Some(Outlook::Hopeless));
        status.downtime = exactly(50);
        assert_eq!(Outlook::of(&status), None);
        status.dirty = None;
        status.downtime = exactly(60);
        assert_eq!(Outlook::of(&status), None);
    }
}
