//! The figures that matter most, in large letters.

use maud::{Markup, html};
use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::migration::Report;
use pagelift_engine::units::ByteCount;

use super::Move;
use crate::report::{Extra, ms};

/// The figures of `this` move.
pub(super) fn figures(this: &Move<'_>) -> Markup {
    let figures = match this.outcome {
        Ok(report) => completed(report, this.extra),
        Err(_) => failed(this.extra),
    };
    html! {
        div.figures {
            @for (name, value, more) in figures {
                div { span { (name) } strong { (value) } span { (more) } }
            }
        }
    }
}

/// Name, value, and a remark.
type Figure = (&'static str, String, String);

fn completed(report: &Report, extra: &Extra) -> Vec<Figure> {
    let limit = extra.status.map_or_else(String::new, |status| {
        format!("limit {} ms", ms(status.limit))
    });
    let lost = extra.lost_work().map_or_else(String::new, |lost| {
        format!("{:.2} s of work lost", lost.as_secs_f64())
    });
    let verified = match report.verified {
        true => format!(
            "{:.1} ms without comparing all memory; {limit}",
            ms(report.downtime.without_digests())
        ),
        false => limit,
    };
    vec![
        (
            "Total",
            seconds(report.total),
            format!("{} rounds", report.rounds),
        ),
        (
            "Downtime",
            format!("{:.1} ms", ms(report.downtime.total())),
            verified,
        ),
        (
            "Sent",
            ByteCount(report.page_wire_bytes.0 + report.state_bytes.0).to_string(),
            format!("for {} of memory", report.guest_bytes),
        ),
        ("Throttle, at most", share(report.throttle_most), lost),
        (
            "CPU time",
            seconds(extra.source_cpu + report.target_cpu),
            format!("source {}", seconds(extra.source_cpu)),
        ),
    ]
}

fn failed(extra: &Extra) -> Vec<Figure> {
    let mut figures = vec![("Total", seconds(extra.elapsed), String::new())];
    if let Some(status) = &extra.status {
        figures[0].2 = format!("ended in round {}", status.round);
        figures.extend([
            ("Sent", status.sent.to_string(), String::new()),
            (
                "Left to send",
                status.left.bytes().to_string(),
                String::new(),
            ),
            (
                "Downtime, forecast",
                status.forecast.map_or_else(
                    || "unknown".into(),
                    |forecast| format!("{:.0} ms", ms(forecast.likely())),
                ),
                format!("limit {} ms", ms(status.limit)),
            ),
            ("Throttle in the end", share(status.throttle), String::new()),
        ]);
    }
    if let Some(time) = extra.freed_after {
        figures.push((
            "At full speed after",
            format!("{:.1} ms", ms(time)),
            String::new(),
        ));
    }
    figures
}

fn seconds(time: std::time::Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn share(share: ThrottleShare) -> String {
    match share {
        ThrottleShare::NONE => "none".into(),
        share => share.to_string(),
    }
}
