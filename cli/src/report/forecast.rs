//! The forecast of the downtime in a report: interval, truth and error, by parts; and what would
//! have worked for a migration that did not converge.

use std::time::Duration;

use pagelift_engine::converge::Interval;
use pagelift_engine::migration::{MigrationError, Report};
use serde_json::{Map, Value, json};

use super::ms;

/// Names, forecasts and truths of the parts of the downtime.
fn parts(report: &Report) -> Option<[(&'static str, Interval, Duration); 5]> {
    let (forecast, truth) = (report.forecast.as_ref()?, &report.downtime);
    Some([
        ("stop", forecast.stop, truth.stop),
        ("harvest", forecast.harvest, truth.harvest),
        ("pages", forecast.pages, truth.pages),
        ("state", forecast.state, truth.state),
        ("hand_over", forecast.hand_over, truth.hand_over),
    ])
}

/// By how much the truth lies above what was likely, in milliseconds.
fn error_ms(forecast: Interval, truth: Duration) -> f64 {
    ((truth.as_secs_f64() - forecast.likely().as_secs_f64()) * 1e6).round() / 1e3
}

fn compared(forecast: Interval, truth: Duration) -> Value {
    json!({
        "low_ms": ms(forecast.low()),
        "likely_ms": ms(forecast.likely()),
        "high_ms": ms(forecast.high()),
        "truth_ms": ms(truth),
        "error_ms": error_ms(forecast, truth),
        "held": forecast.holds(truth),
    })
}

/// The forecast as an object, next to what came of it; null if none was made.
pub fn json(report: &Report) -> Value {
    let (Some(parts), Some(forecast)) = (parts(report), &report.forecast) else {
        return Value::Null;
    };
    let mut object = compared(forecast.total(), report.downtime.without_digests());
    let parts = parts
        .into_iter()
        .map(|(name, forecast, truth)| (name.to_owned(), compared(forecast, truth)));
    object["parts"] = Value::Object(parts.collect::<Map<_, _>>());
    object
}

/// The same as a line for people; the parts whose interval did not hold are named.
pub fn text(report: &Report) -> Option<String> {
    let forecast = report.forecast.as_ref()?.total();
    let truth = report.downtime.without_digests();
    let digest = if report.verified {
        " without the digest"
    } else {
        ""
    };
    let mut text = format!(
        "forecast {forecast}, it was {:.1}{digest}: {:+.1} ms, {} the interval",
        ms(truth),
        error_ms(forecast, truth),
        if forecast.holds(truth) {
            "within"
        } else {
            "outside"
        },
    );
    let wrong = parts(report)?
        .into_iter()
        .filter(|(_, forecast, truth)| !forecast.holds(*truth));
    for (index, (name, forecast, truth)) in wrong.enumerate() {
        let word = if index == 0 { "; wrong in" } else { "," };
        let name = name.replace('_', "-");
        text += &format!("{word} {name} by {:+.1}", error_ms(forecast, truth));
    }
    Some(text)
}

/// What would have worked for a migration that was given up; null for other failures.
pub fn remedy_json(error: &MigrationError) -> Value {
    let MigrationError::NotConverging(given_up) = error else {
        return Value::Null;
    };
    let remedy = &given_up.remedy;
    json!({
        "downtime_ms": remedy.downtime.map(ms),
        "throttle_pct": remedy.throttle.map(|share| share.as_fraction() * 100.0),
        "link_bytes_per_s": remedy.link.map(|rate| rate.0),
    })
}

#[cfg(test)]
mod tests {
    use pagelift_engine::converge::DowntimeForecast;
    use pagelift_engine::migration::DowntimeParts;

    use super::*;

    fn report() -> Report {
        let ms = Duration::from_millis;
        let interval = |low, likely, high| Interval::new(ms(low), ms(likely), ms(high));
        Report {
            forecast: Some(DowntimeForecast {
                stop: interval(1, 1, 2),
                pages: interval(5, 10, 20),
                state: interval(2, 3, 4),
                ..DowntimeForecast::default()
            }),
            downtime: DowntimeParts {
                stop: ms(1),
                pages: ms(11),
                verify: ms(100),
                state: ms(6),
                ..DowntimeParts::default()
            },
            ..Report::default()
        }
    }

    #[test]
    fn a_part_that_was_wrong_is_named_and_digests_do_not_count() {
        assert_eq!(
            text(&report()).unwrap(),
            "forecast 14.0 ms (8.0 to 24.1), it was 18.0: +4.0 ms, within the interval; wrong in \
             state by +3.0"
        );
        let object = json(&report());
        assert_eq!(object["truth_ms"], 18.0);
        assert_eq!(object["held"], true);
        assert_eq!(object["parts"]["state"]["held"], false);
        assert_eq!(object["parts"]["pages"]["error_ms"], 1.0);
    }

    #[test]
    fn without_a_forecast_there_is_nothing_to_say() {
        let report = Report {
            forecast: None,
            ..report()
        };
        assert_eq!(text(&report), None);
        assert_eq!(json(&report), Value::Null);
    }
}
