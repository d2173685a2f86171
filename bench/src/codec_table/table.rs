//! The results as Markdown.

use std::fmt::Write;

use pagelift_bench::figures::middle;
use pagelift_engine::units::ByteCount;

use crate::ends::Pages;
use crate::moves::Move;
use crate::{Cell, Group, Results};

/// Everything: the machine, `auto` against the best of the others, and every cell.
pub(crate) fn render(results: &Results, runs: u32) -> String {
    let moves = || {
        let cells = results.groups.iter().flat_map(|group| &group.cells);
        cells.flat_map(|cell| &cell.runs)
    };
    let others = moves().map(|moved| moved.others_cpus).sum::<f64>() / moves().count() as f64;
    let [before, after] = results.load;
    let mut text = format!(
        "{}; load {before:.1} before and {after:.1} at the end; everything but the two ends, \
         interrupts included, kept {others:.2} CPUs busy. {} channels; the median of {runs} \
         runs.\n",
        results.machine, results.channels,
    );
    text.push_str(&summary(&results.groups));
    let mut link = None;
    for group in &results.groups {
        if link.replace(&group.link) != Some(&group.link) {
            text.push_str(&heading(group));
        }
        for cell in &group.cells {
            text.push_str(&row(group, cell));
        }
    }
    text
}

/// `auto` beside the best fixed setting, where both were measured.
fn summary(groups: &[Group]) -> String {
    let mut lines = String::new();
    for group in groups {
        let (auto, fixed): (Vec<&Cell>, Vec<&Cell>) =
            group.cells.iter().partition(|cell| cell.setting == "auto");
        let best = fixed
            .into_iter()
            .filter(|cell| cell.setting != "before")
            .min_by(|a, b| a.median_s().total_cmp(&b.median_s()));
        let (Some(best), Some(auto)) = (best, auto.first()) else {
            continue;
        };
        let (Some(best_move), Some(auto_move)) = (best.median(), auto.median()) else {
            continue;
        };
        let _ = writeln!(
            lines,
            "| {} | {} | {} | {:.2} | {:.2} | {:+.1} % | {} | {:.1} | {:.1} | {} |",
            group.link,
            group.content.name(),
            best.setting,
            best.median_s(),
            auto.median_s(),
            behind(best, auto),
            middle_half(best, auto),
            mib(best_move.sent.wire_bytes),
            mib(auto_move.sent.wire_bytes),
            used(&auto_move.sent.pages),
        );
    }
    if lines.is_empty() {
        return lines;
    }
    format!(
        "\n| link | content | best fixed | s | auto s | auto behind | half of rounds | MiB | auto MiB \
         | auto used |\n\
         |---|---|---|---|---|---|---|---|---|---|\n{lines}"
    )
}

fn heading(group: &Group) -> String {
    format!(
        "\n**{}, {} of memory**\n\n\
         | content | setting | s | quickest | slowest | wire MiB | ratio | CPU s source | target |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        group.link,
        ByteCount(group.memory_bytes)
    )
}

fn row(group: &Group, cell: &Cell) -> String {
    let Some(moved) = cell.median() else {
        return String::new();
    };
    let sent = &moved.sent;
    format!(
        "| {} | {} | {:.2} | {:.2} | {:.2} | {:.1} | {:.2} | {:.2} | {:.2} |\n",
        group.content.name(),
        cell.setting,
        sent.total_s,
        cell.quickest_s(),
        cell.slowest_s(),
        mib(sent.wire_bytes),
        group.memory_bytes as f64 / sent.wire_bytes as f64,
        sent.source_cpu_s,
        sent.target_cpu_s,
    )
}

impl Cell {
    /// The run whose time is the median.
    fn median(&self) -> Option<&Move> {
        let median_s = self.median_s();
        let is_median = |moved: &&Move| moved.sent.total_s.total_cmp(&median_s).is_eq();
        self.runs.iter().find(is_median)
    }

    fn median_s(&self) -> f64 {
        middle(self.runs.iter().map(|moved| moved.sent.total_s))
    }

    fn quickest_s(&self) -> f64 {
        let times = self.runs.iter().map(|moved| moved.sent.total_s);
        times.fold(f64::INFINITY, f64::min)
    }

    fn slowest_s(&self) -> f64 {
        let times = self.runs.iter().map(|moved| moved.sent.total_s);
        times.fold(0.0, f64::max)
    }
}

/// By how many per cent `auto` took longer than the best fixed setting in each round. What else the
/// machine does changes from minute to minute and hits both runs of a round.
fn rounds(best: &Cell, auto: &Cell) -> impl Iterator<Item = f64> {
    let pairs = best.runs.iter().zip(&auto.runs);
    pairs.map(|(best, auto)| (auto.sent.total_s / best.sent.total_s - 1.0) * 100.0)
}

/// The median round's.
fn behind(best: &Cell, auto: &Cell) -> f64 {
    middle(rounds(best, auto))
}

/// The least and the most of the rounds in the middle: without the lowest and the highest quarter.
fn middle_half(best: &Cell, auto: &Cell) -> String {
    let mut rounds: Vec<f64> = rounds(best, auto).collect();
    rounds.sort_by(f64::total_cmp);
    let aside = rounds.len() / 4;
    match &rounds[aside..rounds.len() - aside] {
        [] => String::new(),
        [first, .., last] => format!("{first:+.0} to {last:+.0}"),
        [only] => format!("{only:+.0}"),
    }
}

/// What carried the pages that were not filled with one word.
fn used(pages: &Pages) -> String {
    let all = (pages.raw + pages.lz4 + pages.zstd).max(1) as f64;
    let ways = [("raw", pages.raw), ("lz4", pages.lz4), ("zstd", pages.zstd)];
    let used: Vec<String> = ways
        .iter()
        .filter(|(_, pages)| *pages > 0)
        .map(|(name, pages)| format!("{name} {:.0} %", *pages as f64 / all * 100.0))
        .collect();
    used.join(", ")
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
