//! One chart: a heading with a legend, axes, and lines.

use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::{
    AreaSeries, ChartBuilder, Circle, Color, DashedLineSeries, DrawingArea, DrawingAreaErrorKind,
    FontStyle, IntoFont, LabelAreaPosition, LineSeries, PathElement, Polygon, RGBColor, Rectangle,
    SVGBackend, Text, TextStyle,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::scale::Axis;
use super::theme::{AXIS, FAINT, FINE, GRID, HAIR, INK, RED, ROUND};
use super::timeline::Timeline;

/// Pixels of the picture's parts.
const WIDTH: u32 = 920;
const CAPTION: u32 = 32;
const HEADING: u32 = 30;
const CHART: u32 = 150;
const TIME_LABELS: u32 = 26;
const VALUE_LABELS: u32 = 84;
const RIGHT: u32 = 28;
/// Beneath a chart without labels.
const BENEATH: u32 = 8;

/// More ends of rounds, and dots on a line, would hide what is drawn.
const MARKS_MOST: usize = 60;

/// The library writes sizes of text divided by this.
const FONT_SCALE: f64 = 1.24;
const FONT: &str = "system-ui, sans-serif";

/// Guessed width of a letter of a legend, in pixels; only the gaps between entries depend on it.
const LETTER: f64 = 5.8;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Size of a picture, in pixels, and how it is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) width: u32,
    pub(super) height: u32,
    charts: u32,
    caption: u32,
}

/// Where a chart stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Pixels above it.
    top: u32,
    /// Pixels beneath it for the labels of the time: the last chart has them.
    labels: u32,
}

/// The size of a picture of so many charts.
pub(super) fn size(charts: u32, captioned: bool) -> Size {
    let caption = if captioned { CAPTION } else { 0 };
    Size {
        width: WIDTH,
        height: caption + charts * (HEADING + CHART + BENEATH) - BENEATH + TIME_LABELS,
        charts,
        caption,
    }
}

impl Size {
    /// The size in the picture's coordinates.
    pub(super) fn fine(self) -> (u32, u32) {
        (self.width * FINE, self.height * FINE)
    }

    /// Where each chart stands.
    pub(super) fn places(self) -> impl Iterator<Item = Place> {
        (0..self.charts).map(move |index| Place {
            top: self.caption + index * (HEADING + CHART + BENEATH),
            labels: if index + 1 == self.charts {
                TIME_LABELS
            } else {
                0
            },
        })
    }
}

/// Writes a line above all charts.
pub(super) fn caption(picture: &Area<'_>, words: &str) -> Drawn {
    let at = ((VALUE_LABELS * FINE) as i32, ((CAPTION - 8) * FINE) as i32);
    let style = text(13.5, INK).pos(Pos::new(HPos::Left, VPos::Bottom));
    picture.draw(&Text::new(words, at, style))
}

/// How the points of a series are joined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape {
    /// Straight lines, filled down to the axis.
    Filled,
    /// Straight lines, with a dot at each point.
    Dots,
    /// A value holds until the next point.
    Steps,
    /// The same, filled down to the axis.
    FilledSteps,
    /// The same, dashed.
    Limit,
}

/// A line in a chart, of times in seconds and values.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) colour: RGBColor,
    pub(super) shape: Shape,
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) values: Axis,
    pub(super) series: Vec<Series>,
    /// Around the first series: times, lowest and highest values.
    pub(super) band: Vec<(f64, f64, f64)>,
}

impl Panel {
    /// Draws this chart at its place.
    pub(super) fn draw(&self, picture: &Area<'_>, place: Place, timeline: &Timeline) -> Drawn {
        let Place { top, labels } = place;
        let area = picture.clone().shrink(
            (0, top * FINE),
            (WIDTH * FINE, (HEADING + CHART + labels) * FINE),
        );
        self.heading(&area)?;
        let time = Axis::time(timeline.end);
        let (first, end) = (self.values.range().start, self.values.range().end);
        let mut chart = ChartBuilder::on(&area)
            .margin_top(HEADING * FINE)
            .margin_right(RIGHT * FINE)
            .set_label_area_size(LabelAreaPosition::Left, VALUE_LABELS * FINE)
            .set_label_area_size(LabelAreaPosition::Bottom, labels * FINE)
            .build_cartesian_2d(time, self.values.clone())?;
        if let Some(stopped) = timeline.stopped {
            let still = Rectangle::new(
                [(stopped, first), (timeline.end, end)],
                RED.mix(0.12).filled(),
            );
            chart.draw_series([still])?;
        }
        chart
            .configure_mesh()
            .max_light_lines(0)
            .bold_line_style(GRID.stroke_width(HAIR))
            .axis_style(AXIS.stroke_width(HAIR))
            .set_all_tick_mark_size(4 * FINE)
            .label_style(text(11.5, FAINT))
            .draw()?;
        let rounds = timeline
            .rounds
            .iter()
            .filter(|_| timeline.rounds.len() <= MARKS_MOST);
        let lines = rounds.map(|round| {
            let style = ROUND.stroke_width(HAIR);
            PathElement::new(vec![(*round, first), (*round, end)], style)
        });
        chart.draw_series(lines)?;
        if let Some(series) = self.series.first().filter(|_| !self.band.is_empty()) {
            let upper = self.band.iter().map(|(at, _, high)| (*at, *high));
            let lower = self.band.iter().rev().map(|(at, low, _)| (*at, *low));
            let outline: Vec<_> = upper.chain(lower).collect();
            chart.draw_series([Polygon::new(outline, series.colour.mix(0.16))])?;
        }
        for series in &self.series {
            let points = series.drawn(timeline.end);
            let line = series.colour.stroke_width(2 * HAIR);
            if matches!(series.shape, Shape::Filled | Shape::FilledSteps) {
                let fill = series.colour.mix(0.14);
                chart.draw_series(AreaSeries::new(points.iter().copied(), first, fill))?;
            }
            if series.shape == Shape::Limit {
                chart.draw_series(DashedLineSeries::new(points, 7 * FINE, 4 * FINE, line))?;
                continue;
            }
            if series.shape == Shape::Dots && points.len() <= MARKS_MOST {
                let dot = |point| Circle::new(point, 3 * FINE, series.colour.filled());
                chart.draw_series(points.iter().copied().map(dot))?;
            }
            chart.draw_series(LineSeries::new(points, line))?;
        }
        Ok(())
    }

    /// The title on the left, and the legend on the right: neither is ever over a curve.
    fn heading(&self, area: &Area<'_>) -> Drawn {
        let at = |x: u32, y: u32| ((x * FINE) as i32, (y * FINE) as i32);
        let line = HEADING - 9;
        let bold = TextStyle {
            font: (FONT, pixels(13.0)).into_font().style(FontStyle::Bold),
            ..text(13.0, INK)
        };
        let left = bold.pos(Pos::new(HPos::Left, VPos::Bottom));
        area.draw(&Text::new(self.title, at(VALUE_LABELS, line), left))?;
        let mut right = WIDTH - RIGHT;
        for series in self.series.iter().rev() {
            let dashes = match series.shape {
                Shape::Limit => vec![(22, 15), (10, 3)],
                _ => vec![(22, 2)],
            };
            for (from, to) in dashes {
                let ends = vec![at(right - from, line - 5), at(right - to, line - 5)];
                area.draw(&PathElement::new(
                    ends,
                    series.colour.stroke_width(2 * HAIR),
                ))?;
            }
            let style = text(11.5, FAINT).pos(Pos::new(HPos::Right, VPos::Bottom));
            area.draw(&Text::new(series.name.clone(), at(right - 28, line), style))?;
            right -= 28 + (series.name.chars().count() as f64 * LETTER) as u32 + 14;
        }
        Ok(())
    }
}

impl Series {
    /// The corners of the line.
    fn drawn(&self, end: f64) -> Vec<(f64, f64)> {
        if matches!(self.shape, Shape::Filled | Shape::Dots) {
            return self.points.clone();
        }
        let mut corners: Vec<(f64, f64)> = Vec::with_capacity(2 * self.points.len() + 1);
        for (at, value) in &self.points {
            if let Some((_, before)) = corners.last() {
                corners.push((*at, *before));
            }
            corners.push((*at, *value));
        }
        if let Some((_, last)) = corners.last() {
            corners.push((end, *last));
        }
        corners
    }
}

fn pixels(size: f64) -> f64 {
    size * FONT_SCALE * f64::from(FINE)
}

fn text(size: f64, colour: RGBColor) -> TextStyle<'static> {
    TextStyle {
        color: colour.to_backend_color(),
        ..TextStyle::from((FONT, pixels(size)).into_font())
    }
}
