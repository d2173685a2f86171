//! Draws a migration as SVG: what was left to send, rates, forecast downtime and throttle.
//!
//! Four charts share one axis of time. Vertical lines are the ends of rounds; while the
//! guest stands still the background is red. Legends stand above the charts, never in them. The
//! picture follows the reader's light or dark theme, alone and as part of a page.

mod panel;
mod scale;
mod theme;
mod timeline;

pub use timeline::{ForecastPoint, Timeline};

use plotters::prelude::{IntoDrawingArea, SVGBackend};

use panel::{Area, Drawn, Panel, Series, Shape, Size};
use scale::{Axis, logarithm};
use theme::{BLUE, ORANGE, RED, TEAL, VIOLET};

/// The picture of a migration, beneath a line of words if there are any.
pub fn svg(timeline: &Timeline, caption: Option<&str>) -> String {
    let panels = [
        left(timeline),
        rates(timeline),
        downtime(timeline),
        throttle(timeline),
    ];
    let charts = panels.len() as u32;
    let size = panel::size(charts, caption.is_some());
    let mut text = String::new();
    let picture = SVGBackend::with_string(&mut text, size.fine()).into_drawing_area();
    // Writing to a string cannot fail.
    let _ = draw(&picture, size, &panels, timeline, caption);
    drop(picture);
    theme::themed(&text, (size.width, size.height))
}

fn draw(
    picture: &Area<'_>,
    size: Size,
    panels: &[Panel],
    timeline: &Timeline,
    caption: Option<&str>,
) -> Drawn {
    if let Some(words) = caption {
        panel::caption(picture, words)?;
    }
    for (panel, place) in panels.iter().zip(size.places()) {
        panel.draw(picture, place, timeline)?;
    }
    picture.present()
}

fn left(timeline: &Timeline) -> Panel {
    Panel {
        title: "Left to send",
        values: Axis::bytes(largest(&timeline.left)),
        series: vec![Series {
            name: "pages that the target does not have yet".into(),
            colour: BLUE,
            shape: Shape::Filled,
            points: timeline.left.clone(),
        }],
        band: Vec::new(),
    }
}

fn rates(timeline: &Timeline) -> Panel {
    let most = largest(&timeline.link).max(largest(&timeline.written));
    Panel {
        title: "Rates",
        values: Axis::rate(most),
        series: vec![
            Series {
                name: "carried by the link".into(),
                colour: BLUE,
                shape: Shape::Steps,
                points: timeline.link.clone(),
            },
            Series {
                name: "written by the guest (distinct pages)".into(),
                colour: ORANGE,
                shape: Shape::Steps,
                points: timeline.written.clone(),
            },
        ],
        band: Vec::new(),
    }
}

/// On a logarithmic axis: the limit is often a thousandth of what the first rounds leave.
fn downtime(timeline: &Timeline) -> Panel {
    let ends = timeline
        .downtime
        .iter()
        .flat_map(|point| [point.low, point.high]);
    let shown = ends.chain(timeline.limit.iter().map(|(_, limit)| *limit));
    let (least, most) = shown.fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), value| {
        (least.min(value), most.max(value))
    });
    let limit = timeline.limit.last().map_or_else(
        || "limit".into(),
        |(_, limit)| format!("limit {}", scale::time(*limit)),
    );
    Panel {
        title: "Downtime if stopped then",
        values: Axis::decades(least.min(most), most),
        series: vec![
            Series {
                name: "forecast, and its interval".into(),
                colour: TEAL,
                shape: Shape::Dots,
                points: (timeline.downtime.iter())
                    .map(|point| (point.at, logarithm(point.likely)))
                    .collect(),
            },
            Series {
                name: limit,
                colour: RED,
                shape: Shape::Limit,
                points: (timeline.limit.iter())
                    .map(|(at, limit)| (*at, logarithm(*limit)))
                    .collect(),
            },
        ],
        band: (timeline.downtime.iter())
            .map(|point| (point.at, logarithm(point.low), logarithm(point.high)))
            .collect(),
    }
}

fn throttle(timeline: &Timeline) -> Panel {
    Panel {
        title: "Throttle",
        values: Axis::share(),
        series: vec![Series {
            name: "share of its time that the guest is kept from running".into(),
            colour: VIOLET,
            shape: Shape::FilledSteps,
            points: timeline.throttle.clone(),
        }],
        band: Vec::new(),
    }
}

fn largest(points: &[(f64, f64)]) -> f64 {
    points.iter().map(|(_, value)| *value).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagelift_engine::converge::Trace;

    fn timeline() -> Timeline {
        let line = |at_us: u64, left: u64, more: &str| {
            format!(
                "now_us={at_us} elapsed_us={at_us} round=1 ended=1 left={left} held=0 in_flight=0 \
                 page_bytes=4096 link=1000000 dirty=500000 fixed_us=0 harvested=100 \
                 interval_us=1000 throttled=0 placed=0 decision={more}\n"
            )
        };
        let limits = "policy=predictive downtime_us=50000 downtime_most_us=50000 deadline_us=none \
                      at_deadline=cancel throttle_most=auto";
        let text = "pagelift-trace 1 pages=200\n".to_owned()
            + &line(1_000_000, 100, &format!("continue {limits}"))
            + &line(2_000_000, 50, "throttle share=500")
            + &line(3_000_000, 0, "stop");
        let trace = Trace::parse(&text).unwrap();
        Timeline::of(trace.first_pages, &trace.records)
    }

    #[test]
    fn the_first_round_counts_from_the_start() {
        let timeline = timeline();
        assert_eq!(timeline.rounds, [1.0, 2.0, 3.0]);
        let page = 4096.0;
        assert_eq!(
            timeline.left[..3],
            [(0.0, 200.0 * page), (1.0, 0.0), (1.0, 100.0 * page)]
        );
        assert_eq!(timeline.link[0], (0.0, 1e6));
        assert_eq!(timeline.written[0], (0.0, 5e5));
        assert_eq!(timeline.throttle, [(0.0, 0.0), (2.0, 0.5)]);
        assert_eq!(timeline.limit, [(0.0, 0.05)]);
        assert_eq!((timeline.stopped, timeline.end), (Some(3.0), 3.0));
        assert!(timeline.downtime[0].low <= timeline.downtime[0].likely);
    }

    #[test]
    fn rounds_limit_throttle_and_the_words_are_drawn() {
        let picture = svg(&timeline(), Some("it ended <well>"));
        for words in [
            "it ended &lt;well&gt;",
            "limit 50 ms",
            "Throttle",
            "100 %",
            "800 KiB",
        ] {
            assert!(picture.contains(words), "{words}: {picture}");
        }
        let stroke = |colour: plotters::style::RGBColor| {
            let plotters::style::RGBColor(red, green, blue) = colour;
            picture
                .matches(&format!(" stroke=\"#{red:02X}{green:02X}{blue:02X}\""))
                .count()
        };
        assert_eq!(stroke(theme::ROUND), 12, "three rounds, four charts");
        assert!(stroke(RED) > 10, "the limit is dashed");
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        // Neither scripts nor anything from elsewhere.
        assert!(!picture.contains("<script") && !picture.contains("href"));
    }

    #[test]
    fn a_migration_without_a_round_is_drawn_as_well() {
        let picture = svg(&Timeline::default(), None);
        assert!(picture.ends_with("</svg>\n"));
    }
}
