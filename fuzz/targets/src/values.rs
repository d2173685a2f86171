//! Values of options, as users and other programs write them.

use pagelift_control::job::values;
use pagelift_engine::DeltaCacheSize;
use pagelift_engine::codec::CompressSetting;
use pagelift_engine::codec::dedup::DedupSetting;
use pagelift_engine::units::{ByteCount, Rate};
use pagelift_transports::Endpoint;
use std::fmt::Display;
use std::str::FromStr;

/// What is accepted reads the same after being written.
fn round_trip<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let again = value.to_string();
        assert!(
            again.parse::<T>().is_ok_and(|again| again == value),
            "{again}"
        );
    }
}

/// An error names the text it is about.
fn named<T, E: Display>(text: &str, result: Result<T, E>) {
    if let Err(error) = result {
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
    }
}

/// The value of any option that has a syntax of its own.
pub fn option_value(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    round_trip::<CompressSetting>(text);
    round_trip::<Endpoint>(text);
    round_trip::<DedupSetting>(text);
    named(text, text.parse::<ByteCount>());
    named(text, text.parse::<DeltaCacheSize>());
    named(text, text.parse::<Rate>());
    named(text, values::cpu_limit(text));
    named(text, values::deadline(text).map(drop));
    named(text, values::duration(text));
    if let Ok(downtime) = values::downtime(text) {
        assert!(downtime.least() <= downtime.most());
    }
    if let Ok(rate) = values::rate(text) {
        assert!(rate > Rate(0), "a rate of zero would never end");
    }
}
