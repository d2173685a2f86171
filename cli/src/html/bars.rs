//! Wholes and their parts: the downtime, the pages, and the time of the threads.

use maud::{Markup, html};
use pagelift_engine::converge::Interval;
use pagelift_engine::migration::{Report, SourceStages};
use pagelift_engine::units::{ByteCount, PAGE_BYTES};

use super::capitalized;
use crate::report::{Extra, forecast, ms, stages};

/// A part of the downtime: name, colour, milliseconds, and what was forecast.
type Part = (&'static str, &'static str, f64, Option<Interval>);

/// The downtime by its parts, beside what was forecast of each.
pub(super) fn downtime(report: &Report, extra: &Extra) -> Markup {
    let (parts, forecast) = (&report.downtime, report.forecast.as_ref());
    let digest =
        report
            .verified
            .then_some(("Comparing all memory", "slate", ms(parts.verify), None));
    let all: Vec<Part> = [
        (
            "Stopping the guest",
            "blue",
            ms(parts.stop),
            forecast.map(|all| all.stop),
        ),
        (
            "Harvest of dirty pages",
            "teal",
            ms(parts.harvest),
            forecast.map(|all| all.harvest),
        ),
        (
            "Last pages",
            "orange",
            ms(parts.pages),
            forecast.map(|all| all.pages),
        ),
        (
            "Device state",
            "violet",
            ms(parts.state),
            forecast.map(|all| all.state),
        ),
        (
            "Hand-over",
            "red",
            ms(parts.hand_over),
            forecast.map(|all| all.hand_over),
        ),
    ]
    .into_iter()
    .chain(digest)
    .collect();
    let total = ms(parts.total());
    html! {
        section #downtime {
            h2 {
                "Downtime: " (format!("{total:.1} ms"))
                @if let Some(status) = &extra.status {
                    " " span.faint { "(limit " (ms(status.limit)) " ms)" }
                }
            }
            div.stack {
                @for (_, colour, time, _) in &all {
                    i class=(colour) style=(width(*time, total)) {}
                }
            }
            table {
                tr { th { "Part" } th { "ms" } th { "forecast, ms" } th { "in 9 of 10 cases" } }
                @for (name, colour, time, forecast) in &all {
                    tr {
                        td { i class={ "swatch " (colour) } {} (name) }
                        td { (format!("{time:.1}")) }
                        (forecast_cells(*time, *forecast))
                    }
                }
            }
            @if let Some(words) = forecast::text(report) {
                p.note { "In all: " (words) "." }
            }
        }
    }
}

fn forecast_cells(time: f64, forecast: Option<Interval>) -> Markup {
    let Some(forecast) = forecast else {
        return html! { td.faint { "-" } td.faint { "-" } };
    };
    let (low, high) = (ms(forecast.low()), ms(forecast.high()));
    let class = if (low..=high).contains(&time) {
        ""
    } else {
        "missed"
    };
    html! {
        td { (format!("{:.1}", ms(forecast.likely()))) }
        td class=(class) { (format!("{low:.1} to {high:.1}")) }
    }
}

/// The pages by the way they were sent, and what they took.
pub(super) fn pages(report: &Report) -> Markup {
    let (pages, data) = (&report.pages, &report.encoded);
    let kinds = [
        ("As they are", "blue", pages.raw, Some(data.raw)),
        ("LZ4", "orange", pages.lz4, Some(data.lz4)),
        ("zstd", "teal", pages.zstd, Some(data.zstd)),
        ("Deltas", "violet", pages.delta, Some(data.delta)),
        (
            "One word repeated",
            "red",
            pages.same_filled,
            Some(data.same_filled),
        ),
        (
            "On the target already",
            "teal pale",
            pages.reference,
            Some(data.reference),
        ),
        ("Unchanged", "violet pale", pages.unchanged, None),
        ("Zero", "slate", pages.zero, None),
        ("Never populated", "slate pale", pages.skipped, None),
    ];
    let total: u64 = kinds.iter().map(|(.., count, _)| count).sum();
    html! {
        section #pages {
            h2 { "Pages by kind" }
            table {
                tr { th { "Kind" } th { "" } th { "memory" } th { "on the wire" } }
                @for (name, colour, count, bytes) in kinds.iter().filter(|(.., count, _)| *count > 0) {
                    tr {
                        td { (name) }
                        td.wide { div.bar { i class=(colour) style=(width(*count as f64, total as f64)) {} } }
                        td { (ByteCount(count * PAGE_BYTES as u64)) }
                        td { (bytes.map_or_else(|| "-".into(), |bytes| ByteCount(bytes).to_string())) }
                    }
                }
            }
        }
    }
}

/// What the threads of the source did with their time.
pub(super) fn stages(all: &SourceStages) -> Markup {
    let rows = [
        ("Reading memory", all.read.busy, "blue"),
        ("Waiting for pages or room", all.read.waiting, "blue pale"),
        ("Encoding pages", all.encode.busy, "teal"),
        ("Pausing for the CPU limit", all.encode.waiting, "teal pale"),
        ("Sending", all.send.busy, "orange"),
        (
            "Waiting for the link or the target",
            all.send.waiting,
            "orange pale",
        ),
    ];
    let total = all.total().as_secs_f64();
    html! {
        section #stages {
            h2 { "Time of the source's threads" }
            table {
                tr { th { "Stage" } th { "" } th { "s" } }
                @for (name, time, colour) in rows {
                    tr {
                        td { (name) }
                        td.wide { div.bar { i class=(colour) style=(width(time.as_secs_f64(), total)) {} } }
                        td { (format!("{:.2}", time.as_secs_f64())) }
                    }
                }
            }
            @if let Some(sentence) = stages::source_sentence(all) {
                p.note { (capitalized(&sentence)) "." }
            }
        }
    }
}

/// The style of a bar for `part` of `whole`.
fn width(part: f64, whole: f64) -> String {
    let percent = if whole > 0.0 {
        100.0 * part / whole
    } else {
        0.0
    };
    format!("width:{percent:.2}%")
}
