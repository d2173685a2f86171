//! How an attempt ended, and whether what the programs said of it is true.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pagelift_tests::Qemu;
use pagelift_tests::run::Finished;

/// Where the guest is, as both QEMUs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Its QEMU was killed.
    Lost,
    /// Stopped on both sides; it can be resumed on one.
    Neither,
    /// It runs where it was.
    Source,
    /// It runs where it was sent.
    Target,
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The sender's options.
    pub(crate) options: String,
    pub(crate) place: Place,
    pub(crate) sender: Finished,
    pub(crate) receiver: Finished,
    pub(crate) target: Qemu,
    /// From the strike until the guest was seen to run, and until both programs had ended.
    pub(crate) guest_after: Option<Duration>,
    pub(crate) ended_after: Duration,
    /// The longest time that the guest was seen to stand still and then to run, without the time in
    /// which its QEMU hung.
    pub(crate) stood: Duration,
}

impl Outcome {
    /// Exit codes of sender and receiver; `None` for one that was killed.
    pub(crate) fn codes(&self) -> (Option<i32>, Option<i32>) {
        (self.sender.status.code(), self.receiver.status.code())
    }

    /// Checks that no program says what is not so. `struck_target`: the target's QEMU was killed,
    /// so that a guest that did arrive is gone.
    pub(crate) fn is_true(&self, struck_target: bool) -> Result<()> {
        for program in [&self.sender, &self.receiver] {
            let Some(code) = program.status.code() else {
                continue;
            };
            let report = program.json()?;
            let location = report["vm_location"].as_str().context("a location")?;
            let arrived = self.place == Place::Target || struck_target;
            let (fits, words) = match (code, location) {
                (0, "target") => (arrived, ""),
                (1 | 3, "source") if self.place == Place::Lost => {
                    (true, "the guest does not run any more")
                }
                (1 | 3, "source") => (self.place == Place::Source, "the guest is on the source"),
                (4, "unknown") => (true, "it is not known where the guest is; look at the "),
                (4, "target") => (self.place != Place::Source, "the guest is on the target; "),
                _ => (false, ""),
            };
            ensure!(fits, "exit code {code} and place {location}: {self}");
            // A receiver that loses its source does not learn why.
            let unaware = self.place == Place::Lost
                && program.stderr.contains("the control connection was lost")
                && program.stderr.contains("the guest is on the source");
            ensure!(
                program.stderr.contains(words) || unaware,
                "it does not say {words:?}: {self}"
            );
            ensure!(!program.stderr.contains("panicked"), "{self}");
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, codes) = (self.place, self.codes());
        writeln!(f, "{place:?} {codes:?} with {}", self.options)?;
        for (name, program) in [("sender", &self.sender), ("receiver", &self.receiver)] {
            writeln!(f, "{name}: {}{}", program.stdout, program.stderr)?;
        }
        Ok(())
    }
}

/// A line for people.
pub(crate) fn tell(what: &str, outcome: &Outcome) {
    let words =
        |code: Option<i32>| code.map_or_else(|| "killed".to_owned(), |code| code.to_string());
    let (sender, receiver) = outcome.codes();
    let guest = match outcome.guest_after {
        Some(time) => format!("ran after {:.2} s", time.as_secs_f64()),
        None => "stood still".to_owned(),
    };
    eprintln!(
        "{what} ({}): {:?}; the guest {guest}; sender {}, receiver {}, ended after {:.2} s",
        outcome.options,
        outcome.place,
        words(sender),
        words(receiver),
        outcome.ended_after.as_secs_f64(),
    );
}
