//! Axes whose ticks are round numbers in a unit that fits.

use std::ops::Range;
use std::time::Duration;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// An axis: its range, where it has labels, and how they are written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
    labels: Labels,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Labels {
    /// The value by `unit`, with so many digits behind the point.
    In {
        unit: f64,
        name: &'static str,
        digits: usize,
    },
    /// The value is the decimal logarithm of a time in seconds.
    Decades,
}

/// Names of units, and how large each is.
type Units = [(f64, &'static str)];

const BYTES: [(f64, &str); 5] = [
    (1.0, "B"),
    (1024.0, "KiB"),
    (1_048_576.0, "MiB"),
    (1_073_741_824.0, "GiB"),
    (1_099_511_627_776.0, "TiB"),
];

const RATES: [(f64, &str); 5] = [
    (1.0, "B/s"),
    (1024.0, "KiB/s"),
    (1_048_576.0, "MiB/s"),
    (1_073_741_824.0, "GiB/s"),
    (1_099_511_627_776.0, "TiB/s"),
];

const SECONDS: [(f64, &str); 4] = [(1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h")];

/// A time below this is drawn as if it were so long.
const SHORTEST: f64 = 1e-5;

impl Axis {
    /// Bytes, from 0 to at least `most`.
    pub(super) fn bytes(most: f64) -> Self {
        Self::from_zero(most, &BYTES, 4)
    }

    /// Bytes per second, from 0 to at least `most`.
    pub(super) fn rate(most: f64) -> Self {
        Self::from_zero(most, &RATES, 4)
    }

    /// Shares, from 0 to 1, in per cent.
    pub(super) fn share() -> Self {
        Self::from_zero(1.0, &[(0.01, "%")], 4)
    }

    /// Seconds, from 0 to exactly `end`.
    pub(super) fn time(end: f64) -> Self {
        let mut axis = Self::from_zero(end, &SECONDS, 10);
        axis.range.end = end.max(SHORTEST);
        axis.ticks.retain(|tick| *tick <= axis.range.end);
        axis
    }

    /// Seconds by their [`logarithm`], in whole decades that hold `least` and `most`.
    pub(super) fn decades(least: f64, most: f64) -> Self {
        let (first, last) = (logarithm(least).floor(), (logarithm(most) - 1e-9).ceil());
        let last = last.max(first + 1.0);
        let count = (last - first) as u32;
        Self {
            range: first..last,
            ticks: (0..=count)
                .map(|decade| first + f64::from(decade))
                .collect(),
            labels: Labels::Decades,
        }
    }

    /// In about `count` steps, of 1, 2 or 5 times a power of ten of the largest of the `units`
    /// that fits.
    fn from_zero(most: f64, units: &Units, count: u32) -> Self {
        let smallest = units[0].0;
        let most = if most > 0.0 { most } else { smallest };
        let fits = units.iter().rev().find(|(unit, _)| most >= *unit);
        let (unit, name) = *fits.unwrap_or(&units[0]);
        let step = round_step(most / unit / f64::from(count));
        let steps = (most / unit / step - 1e-9).ceil().max(1.0) as u32;
        let ticks: Vec<f64> = (0..=steps)
            .map(|tick| f64::from(tick) * step * unit)
            .collect();
        let digits = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
        Self {
            range: 0.0..f64::from(steps) * step * unit,
            ticks,
            labels: Labels::In { unit, name, digits },
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (part.clamp(0.0, 1.0) * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        match self.labels {
            Labels::In { unit, name, digits } => format!("{:.digits$} {name}", value / unit),
            Labels::Decades => time(10f64.powf(*value)),
        }
    }
}

/// Where a time stands on an axis of decades.
pub(super) fn logarithm(seconds: f64) -> f64 {
    seconds.max(SHORTEST).log10()
}

/// The smallest of 1, 2 and 5 times a power of ten that is at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
    let fits = steps.into_iter().find(|step| *step >= least * (1.0 - 1e-9));
    fits.unwrap_or(power * 10.0)
}

/// A time in words.
pub(super) fn time(seconds: f64) -> String {
    let micros = Duration::try_from_secs_f64(seconds).map_or(0, |time| time.as_micros());
    let (value, unit) = match micros {
        0..1_000 => return format!("{micros} us"),
        1_000..1_000_000 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    let digits = usize::from(value < 10.0 && (value - value.round()).abs() > 0.05);
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks
            .iter()
            .map(|tick| axis.format_ext(tick))
            .collect()
    }

    #[test]
    fn ticks_are_round_numbers_of_a_unit_that_fits() {
        let mib = 1_048_576.0;
        assert_eq!(
            labels(&Axis::bytes(700.0 * mib)),
            ["0 MiB", "200 MiB", "400 MiB", "600 MiB", "800 MiB"]
        );
        assert_eq!(
            labels(&Axis::rate(1.3 * 1024.0 * mib)),
            ["0.0 GiB/s", "0.5 GiB/s", "1.0 GiB/s", "1.5 GiB/s"]
        );
        assert_eq!(labels(&Axis::bytes(0.0)), ["0.0 B", "0.5 B", "1.0 B"]);
        assert_eq!(labels(&Axis::share()), ["0 %", "50 %", "100 %"]);
    }

    #[test]
    fn the_axis_of_time_ends_with_the_data() {
        let axis = Axis::time(4.27);
        assert_eq!(axis.range, 0.0..4.27);
        assert_eq!(labels(&axis)[..2], ["0.0 s", "0.5 s"]);
        assert_eq!(labels(&axis).last().unwrap(), "4.0 s");
        assert_eq!(labels(&Axis::time(0.31)).last().unwrap(), "300 ms");
        assert_eq!(labels(&Axis::time(1000.0)).last().unwrap(), "16 min");
    }

    #[test]
    fn decades_hold_what_they_show() {
        assert_eq!(
            labels(&Axis::decades(0.03, 2.0)),
            ["10 ms", "100 ms", "1 s", "10 s"]
        );
        assert_eq!(labels(&Axis::decades(0.0, 0.0)), ["10 us", "100 us"]);
        assert_eq!(labels(&Axis::decades(0.1, 0.1)), ["100 ms", "1 s"]);
    }

    #[test]
    fn times_have_a_unit_that_fits() {
        let shown = [0.000_02, 0.0015, 0.02, 0.9, 1.0, 1.25, 300.0].map(time);
        assert_eq!(
            shown,
            [
                "20 us", "1.5 ms", "20 ms", "900 ms", "1 s", "1.2 s", "300 s"
            ]
        );
    }
}
