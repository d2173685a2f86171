//! What came of the cases of a campaign, as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;

/// Who runs the guest in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    Source,
    Target,
    /// It ran nowhere, and one command ended that.
    SettledOnSource,
    SettledOnTarget,
    /// One QEMU is dead, and a person has said so.
    Fenced,
    /// It ran on a QEMU that was killed before the target had all of it.
    LostWithSource,
}

impl How {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Source, "source"),
        (Self::Target, "target"),
        (Self::SettledOnSource, "settled: source"),
        (Self::SettledOnTarget, "settled: target"),
        (Self::Fenced, "fenced"),
        (Self::LostWithSource, "died with its QEMU"),
    ];
}

/// What came of a case.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) how: How,
    pub(crate) stood: Duration,
}

/// All cases so far.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    rows: BTreeMap<&'static str, (Duration, BTreeMap<How, u64>)>,
    pub(crate) failed: Vec<String>,
}

impl Sum {
    /// Counts what came of `case`, which belongs in `row`.
    pub(crate) fn add(&mut self, case: &dyn fmt::Display, row: &'static str, ended: Result<Ended>) {
        match ended {
            Ok(Ended { how, stood }) => {
                let (longest, counts) = self.rows.entry(row).or_default();
                *longest = stood.max(*longest);
                *counts.entry(how).or_default() += 1;
            }
            Err(error) => {
                let words = format!("{case}: {error:#}");
                eprintln!("FAILED {words}");
                self.failed.push(words);
            }
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = How::ALL.map(|(_, name)| name).join(" | ");
        writeln!(f, "| struck | {names} | longest standstill |")?;
        writeln!(f, "|---{}|", "|---".repeat(How::ALL.len() + 1))?;
        for (row, (longest, counts)) in &self.rows {
            write!(f, "| {row} |")?;
            for (how, _) in How::ALL {
                match counts.get(&how) {
                    Some(count) => write!(f, " {count} |")?,
                    None => write!(f, "  |")?,
                }
            }
            writeln!(f, " {:.1} s |", longest.as_secs_f64())?;
        }
        Ok(())
    }
}
