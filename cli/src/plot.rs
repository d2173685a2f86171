//! Draws a migration as SVG: rounds, what is left, rates and throttle over time.
//!
//! Three charts with one time axis. No library: a few lines and labels.

use std::fmt::Write;

use pagelift_engine::converge::{Decision, Record};
use pagelift_engine::units::{ByteCount, Rate};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 20.0;
const CHART: f64 = 150.0;
const GAP: f64 = 50.0;
const TOP: f64 = 40.0;

/// A line in a chart: what it shows, its colour, its points (seconds, value).
struct Line<'a> {
    name: &'a str,
    colour: &'a str,
    points: Vec<(f64, f64)>,
    /// Values hold until the next point.
    steps: bool,
}

/// The picture of `records`.
pub fn svg(records: &[Record]) -> String {
    let rounds: Vec<&Record> = records
        .iter()
        .filter(|record| record.seen.round_ended)
        .collect();
    let time = |record: &Record| record.seen.elapsed.as_secs_f64();
    let end = records.last().map_or(1.0, time).max(1e-3);
    let points = |value: &dyn Fn(&Record) -> f64| {
        rounds
            .iter()
            .map(|record| (time(record), value(record)))
            .collect::<Vec<_>>()
    };
    let left = points(&|record| record.seen.left.bytes().0 as f64);
    let rate = |rate: Option<Rate>| rate.map_or(0.0, |rate| rate.0 as f64);
    let charts = [
        (
            "left to send",
            vec![Line {
                name: "left",
                colour: "#1f77b4",
                points: left,
                steps: false,
            }],
            bytes as fn(f64) -> String,
        ),
        (
            "rates",
            vec![
                Line {
                    name: "written by the guest (distinct pages)",
                    colour: "#d62728",
                    points: points(&|record| rate(record.seen.dirty)),
                    steps: false,
                },
                Line {
                    name: "carried by the link",
                    colour: "#2ca02c",
                    points: points(&|record| rate(record.seen.link)),
                    steps: false,
                },
            ],
            rates,
        ),
        (
            "throttle",
            vec![Line {
                name: "share of time the guest is kept from running",
                colour: "#9467bd",
                points: throttle(records),
                steps: true,
            }],
            percent,
        ),
    ];
    let height = TOP + charts.len() as f64 * (CHART + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let x = |seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - RIGHT);
    for (index, (title, lines, label)) in charts.iter().enumerate() {
        let top = TOP + index as f64 * (CHART + GAP);
        chart(&mut out, top, title, lines, *label, &x);
        for record in &rounds {
            let at = x(time(record));
            put(
                &mut out,
                format_args!(
                    "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{}\" stroke=\"#ddd\"/>",
                    top + CHART
                ),
            );
        }
    }
    for tick in 0..=5 {
        let seconds = end * f64::from(tick) / 5.0;
        let (at, y) = (x(seconds), height - GAP + 15.0);
        put(
            &mut out,
            format_args!(
                "<text x=\"{at:.1}\" y=\"{y}\" text-anchor=\"middle\">{seconds:.1} s</text>"
            ),
        );
    }
    let last = records.last().map(|record| &record.decision);
    let word = match last {
        Some(Decision::Stop) => "stopped and handed over",
        Some(Decision::Force) => "stopped by force and handed over",
        Some(Decision::GiveUp(_)) => "gave up",
        _ => "not finished",
    };
    put(
        &mut out,
        format_args!(
            "<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">\
             {} rounds, {word} after {end:.2} s</text>",
            rounds.len()
        ),
    );
    out.push_str("</svg>\n");
    out
}

/// One chart with its frame, scale, lines and legend.
fn chart(
    out: &mut String,
    top: f64,
    title: &str,
    lines: &[Line<'_>],
    label: fn(f64) -> String,
    x: &dyn Fn(f64) -> f64,
) {
    let values = lines
        .iter()
        .flat_map(|line| line.points.iter().map(|(_, value)| *value));
    let most = values.fold(0.0, f64::max).max(1e-9);
    let y = |value: f64| top + CHART - value / most * (CHART - 10.0);
    let (width, bottom) = (WIDTH - LEFT - RIGHT, top + CHART);
    put(
        out,
        format_args!(
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width}\" height=\"{CHART}\" fill=\"none\" \
         stroke=\"#888\"/>"
        ),
    );
    for (value, at) in [(most, y(most) + 4.0), (0.0, bottom)] {
        put(
            out,
            format_args!(
                "<text x=\"{}\" y=\"{at:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                label(value)
            ),
        );
    }
    put(
        out,
        format_args!(
            "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{title}</text>",
            top - 6.0
        ),
    );
    for (index, line) in lines.iter().enumerate() {
        let mut path = String::new();
        let mut before: Option<f64> = None;
        for (seconds, value) in &line.points {
            let (at_x, at_y) = (x(*seconds), y(*value));
            if let Some(before) = before.filter(|_| line.steps) {
                // Writing to a string cannot fail.
                let _ = write!(path, "{at_x:.1},{before:.1} ");
            }
            let _ = write!(path, "{at_x:.1},{at_y:.1} ");
            before = Some(at_y);
        }
        put(
            out,
            format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
                path.trim_end(),
                line.colour
            ),
        );
        put(
            out,
            format_args!(
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"{}\">{}</text>",
                WIDTH - RIGHT - 6.0,
                top + 16.0 + 16.0 * index as f64,
                line.colour,
                line.name
            ),
        );
    }
}

/// The throttle over time: it holds from the moment it was decided on.
fn throttle(records: &[Record]) -> Vec<(f64, f64)> {
    let mut points = vec![(0.0, 0.0)];
    let mut share = 0.0;
    for record in records {
        if let Decision::Throttle(new) = record.decision {
            share = new.as_fraction();
        }
        points.push((record.seen.elapsed.as_secs_f64(), share));
    }
    points
}

fn bytes(value: f64) -> String {
    ByteCount(value as u64).to_string()
}

fn rates(value: f64) -> String {
    Rate(value as u64).to_string()
}

fn percent(value: f64) -> String {
    format!("{:.0} %", value * 100.0)
}

fn put(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagelift_engine::converge::Trace;

    #[test]
    fn every_round_and_the_end_are_drawn() {
        let line = |at_us: u64, decision: &str| {
            format!(
                "now_us={at_us} elapsed_us={at_us} round=1 ended=1 left=100 held=0 in_flight=0 \
                 page_bytes=4096 link=1000000 dirty=500000 fixed_us=0 harvested=100 \
                 interval_us=1000 throttled=0 placed=0 decision={decision}\n"
            )
        };
        let text = "pagelift-trace 1 pages=100\n".to_owned()
            + &line(1_000_000, "continue")
            + &line(2_000_000, "throttle share=500")
            + &line(3_000_000, "stop");
        let picture = svg(&Trace::parse(&text).unwrap().records);
        assert!(picture.contains("3 rounds, stopped and handed over after 3.00 s"));
        assert!(picture.contains("50 %"), "the most the guest was throttled");
        assert_eq!(
            picture.matches("stroke=\"#ddd\"").count(),
            9,
            "three rounds, three charts"
        );
        assert!(picture.ends_with("</svg>\n"));
    }
}
