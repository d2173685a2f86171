//! The results as tables: medians, with the smallest and the largest value, and ratios.

use std::fmt::Write;

use pagelift_bench::figures::{middle, spread};

use crate::bounds::Bounds;
use crate::methods::Method;
use crate::moves::Move;
use crate::options::Options;
use crate::{GuestResults, Results};

/// Everything, for people.
pub(crate) fn render(results: &Results, options: &Options) -> String {
    let mut text = format!(
        "A guest of {}, {} of it filled; downtime of at most {} ms asked for; loopback TCP;\n\
         medians of {} rounds, (smallest..largest).\n",
        options.memory,
        options.fill,
        options.downtime.as_millis(),
        options.runs
    );
    for guest in &results.guests {
        text.push_str(&guest_table(guest, results.bounds.as_ref()));
    }
    if let Some(bounds) = &results.bounds {
        text.push_str(&bounds_table(bounds));
    }
    text
}

/// One method's moves.
struct Column<'a>(Vec<&'a Move>);

impl Column<'_> {
    fn middle(&self, of: impl Fn(&Move) -> f64) -> f64 {
        middle(self.0.iter().map(|moved| of(moved)))
    }

    fn spread(&self, of: impl Fn(&Move) -> f64, decimals: usize) -> String {
        let values: Vec<f64> = self.0.iter().map(|moved| of(moved)).collect();
        spread(&values, decimals)
    }

    /// What is said of pagelift alone.
    fn own_lines(&self, bounds: Option<&Bounds>) -> String {
        let mut text = String::new();
        if let Some(bounds) = bounds {
            let _ = writeln!(
                text,
                "pagelift / least possible    total {:.2}  net CPU {:.2}",
                self.middle(|m| m.total_s) / bounds.least_wall_s,
                self.middle(|m| m.cpu_net_s) / bounds.least_cpu_s,
            );
        }
        let lived = self.middle(|m| m.process_s.unwrap_or(f64::NAN));
        let _ = writeln!(text, "pagelift-send lived {lived:.2} s");
        text
    }
}

fn guest_table(results: &GuestResults, bounds: Option<&Bounds>) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let column = |method| {
        Column(
            results
                .moves
                .iter()
                .filter(|m| m.method == method)
                .collect(),
        )
    };
    let mut text = format!("\n{} guest\n", results.guest);
    let _ = writeln!(
        text,
        "{:<15} {:>19} {:>19} {:>9} {:>9} {:>19} {:>19} {:>7} {:>7}",
        "",
        "total s",
        "downtime ms",
        "wire MiB",
        "lo MiB",
        "CPU s",
        "net CPU s",
        "rounds",
        "others"
    );
    for method in Method::ALL {
        let moves = column(method);
        if moves.0.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "{:<15} {:>19} {:>19} {:>9.0} {:>9.0} {:>19} {:>19} {:>7} {:>7.2}",
            method.name(),
            moves.spread(|m| m.total_s, 2),
            moves.spread(|m| m.blackout_ms, 1),
            moves.middle(|m| mib(m.wire_bytes)),
            moves.middle(|m| m.loopback_bytes.map_or(f64::NAN, mib)),
            moves.spread(|m| m.cpu_s, 2),
            moves.spread(|m| m.cpu_net_s, 2),
            moves.middle(|m| m.rounds as f64),
            moves.middle(|m| m.others_cpus),
        );
    }
    let ours = column(Method::Pagelift);
    for method in [Method::Precopy, Method::Multifd] {
        let theirs = column(method);
        if ours.0.is_empty() || theirs.0.is_empty() {
            continue;
        }
        let ratio = |of: fn(&Move) -> f64| ours.middle(of) / theirs.middle(of);
        let _ = writeln!(
            text,
            "pagelift / {:<14}  total {:.2}  downtime {:.2}  wire {:.2}  CPU {:.2}  net CPU {:.2}",
            method.name(),
            ratio(|m| m.total_s),
            ratio(|m| m.blackout_ms),
            ratio(|m| m.wire_bytes as f64),
            ratio(|m| m.cpu_s),
            ratio(|m| m.cpu_net_s),
        );
    }
    if !ours.0.is_empty() {
        text.push_str(&ours.own_lines(bounds));
    }
    let burn = middle(results.moves.iter().map(|m| m.guest_burn));
    let _ = writeln!(text, "the guest itself used {burn:.2} CPUs");
    text
}

fn bounds_table(bounds: &Bounds) -> String {
    let mib = bounds.bytes >> 20;
    let mut text = format!("\nThe steps of a move alone, for {mib} MiB in pieces of 512 KiB\n");
    let _ = writeln!(
        text,
        "{:<39} {:>7} {:>7} {:>7}",
        "", "wall s", "CPU s", "GiB/s"
    );
    for step in &bounds.steps {
        let gib_per_s = bounds.bytes as f64 / f64::from(1 << 30) / step.wall_s;
        let _ = writeln!(
            text,
            "{:<39} {:>7.2} {:>7.2} {gib_per_s:>7.2}",
            step.name, step.wall_s, step.cpu_s
        );
    }
    let _ = writeln!(
        text,
        "{:<39} {:>7.2} {:>7.2}",
        "least possible: read, TCP, place", bounds.least_wall_s, bounds.least_cpu_s
    );
    text
}
