//! The rounds, a row each.

use maud::{Markup, html};
use pagelift_engine::converge::{Decision, DowntimeForecast, Record, ThrottleShare};
use pagelift_engine::units::Rate;

/// More rounds than these are folded away.
const SHOWN: usize = 25;

/// Most rows of the table; of more rounds the first and the last are in it.
const ROWS: usize = 500;

/// The rounds that `records` tell of.
pub(super) fn rounds(records: &[Record]) -> Markup {
    let ended: Vec<&Record> = records
        .iter()
        .filter(|record| record.seen.round_ended)
        .collect();
    let (first, last) = ended.split_at(ended.len().min(ROWS / 2));
    let last = &last[last.len().saturating_sub(ROWS / 2)..];
    let skipped = ended.len() - first.len() - last.len();
    html! {
        section #rounds {
            details open[ended.len() <= SHOWN] {
                summary { "Rounds (" (ended.len()) ")" }
                table {
                    tr {
                        th { "Round" } th { "ended, s" } th { "took, s" } th { "left then" }
                        th { "guest wrote" } th { "link carried" } th { "throttle" }
                        th { "downtime forecast" } th { "decision" }
                    }
                    @for record in first { (row(record)) }
                    @if skipped > 0 {
                        tr { td.faint colspan="9" { (skipped) " rounds are left out" } }
                    }
                    @for record in last { (row(record)) }
                }
            }
        }
    }
}

fn row(record: &Record) -> Markup {
    let seen = &record.seen;
    let rate = |rate: Option<Rate>| rate.map_or_else(|| "-".into(), |rate| rate.to_string());
    let forecast =
        DowntimeForecast::of(seen).map_or_else(|| "-".into(), |parts| parts.total().to_string());
    html! {
        tr {
            td { (seen.round) }
            td { (format!("{:.2}", seen.elapsed.as_secs_f64())) }
            td { (format!("{:.2}", seen.between_harvests.as_secs_f64())) }
            td { (seen.left.bytes()) }
            td { (rate(seen.dirty)) }
            td { (rate(seen.link)) }
            td { @if seen.throttled == ThrottleShare::NONE { "-" } @else { (seen.throttled) } }
            td { (forecast) }
            td { (decision(&record.decision)) }
        }
    }
}

fn decision(decision: &Decision) -> String {
    match decision {
        Decision::Continue => "another round".into(),
        Decision::Throttle(share) => format!("throttle to {share}"),
        Decision::Stop => "stop the guest".into(),
        Decision::Force => "stop it, at the deadline".into(),
        Decision::GiveUp(_) => "give up".into(),
    }
}
