//! The report that `--json` promises to scripts, checked key by key.

use serde_json::Value;

/// Parts of the downtime; they follow each other and add up to it.
const BLACKOUT_PARTS: [&str; 6] = [
    "hand_over_ms",
    "harvest_ms",
    "pages_ms",
    "state_ms",
    "stop_ms",
    "verify_ms",
];

/// How pages may have gone over.
const PAGE_KINDS: [&str; 8] = [
    "delta",
    "fill",
    "lz4",
    "raw",
    "reference",
    "skipped",
    "zero",
    "zstd",
];

/// What the pages' data may consist of.
const DATA_KINDS: [&str; 6] = ["delta", "fill", "lz4", "raw", "reference", "zstd"];

/// Numbers of the report that are always there.
const NUMBERS: [&str; 15] = [
    "/blackout_ms",
    "/cpu_s/source",
    "/cpu_s/target",
    "/downtime_limit_ms",
    "/downtime_ms",
    "/guest_bytes",
    "/references/catalogue_pages",
    "/references/missing_pages",
    "/references/saved_bytes",
    "/rounds",
    "/saved_bytes",
    "/stages/target_full_s",
    "/throttle_pct_max",
    "/total_ms",
    "/wire_bytes",
];

/// Numbers of the report that may be null: nobody may be able to tell.
const NUMBERS_OR_NULL: [&str; 3] = [
    "/dirty_bytes_per_s",
    "/guest_slowdown_s",
    "/link_bytes_per_s",
];

/// The number at a JSON pointer (RFC 6901).
///
/// # Panics
/// When there is none.
pub fn number(report: &Value, pointer: &str) -> f64 {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {pointer}: {report}"))
}

/// Checks the source's report of a guest of `guest_bytes` that has moved: the keys and their
/// types, and that the figures fit together.
///
/// # Panics
/// When they do not.
pub fn check_completed(report: &Value, guest_bytes: u64) {
    assert_eq!(report["outcome"], "completed", "{report}");
    assert_eq!(report["vm_location"], "target");
    assert!(report["vcpus"].is_array(), "{report}");
    assert!(report["verified"].is_boolean());
    assert_eq!(report.get("error"), Some(&Value::Null), "{report}");
    for pointer in NUMBERS {
        assert!(
            number(report, pointer) >= 0.0,
            "{pointer} is not negative: {report}"
        );
    }
    for pointer in NUMBERS_OR_NULL {
        let value = report.pointer(pointer);
        assert!(
            value.is_some_and(|value| value.is_number() || value.is_null()),
            "{pointer} is a number or null: {report}"
        );
    }
    assert_eq!(report["guest_bytes"], guest_bytes);
    assert!(number(report, "/rounds") >= 2.0, "the last round counts");

    let parts: f64 = BLACKOUT_PARTS
        .iter()
        .map(|part| number(report, &format!("/blackout_parts/{part}")))
        .sum();
    // Each part is rounded to the microsecond.
    assert!(
        (parts - number(report, "/blackout_ms")).abs() < 0.005,
        "the parts make the downtime: {report}"
    );
    assert!(number(report, "/blackout_ms") <= number(report, "/total_ms"));

    let pages: f64 = PAGE_KINDS
        .iter()
        .map(|kind| number(report, &format!("/pages/{kind}")))
        .sum();
    let guest_pages = (guest_bytes / 4096) as f64;
    assert!(
        pages >= guest_pages,
        "the first round alone deals with every page once: {report}"
    );
    let data = |kind: &str| number(report, &format!("/data_bytes/{kind}"));
    assert_eq!(
        data("raw"),
        number(report, "/pages/raw") * 4096.0,
        "{report}"
    );
    let data: f64 = DATA_KINDS.iter().map(|kind| data(kind)).sum();
    let wire = number(report, "/wire_bytes");
    // On top of the pages: headers of frames and runs, zero pages by their numbers, and QEMU's
    // device state, which is about a megabyte.
    let marks = pages * 32.0;
    assert!(
        (data..data + marks + 16e6).contains(&wire),
        "{wire} bytes for {data} of pages: {report}"
    );
    check_stages(report, &["read", "encode", "send"]);
    check_delta_cache(report);
}

/// Checks what a report says of the cache of old contents.
fn check_delta_cache(report: &Value) {
    let cache = report.get("delta_cache");
    let cache = cache.unwrap_or_else(|| panic!("no delta_cache: {report}"));
    if cache.is_null() {
        assert_eq!(number(report, "/pages/delta"), 0.0, "{report}");
        return;
    }
    let count = |name: &str| number(report, &format!("/delta_cache/{name}"));
    let (lookups, hits) = (count("lookups"), count("hits"));
    assert!(hits <= lookups, "{report}");
    assert!(count("overflows") + count("unchanged") <= hits, "{report}");
    assert!(count("delta_bytes") + count("saved_bytes") <= hits * 4096.0);
    assert!(number(report, "/pages/delta") <= hits, "{report}");
    let rate = &cache["hit_rate"];
    assert_eq!(rate.is_null(), lookups == 0.0, "{report}");
}

/// Checks what a report says of the stages of its side.
///
/// # Panics
/// When something of it is missing.
pub fn check_stages(report: &Value, stages: &[&str]) {
    for stage in stages {
        for kind in ["busy_s", "waiting_s"] {
            let seconds = number(report, &format!("/stages/{stage}/{kind}"));
            assert!(seconds >= 0.0, "{stage} {kind}: {report}");
        }
    }
    let bottleneck = report.pointer("/stages/bottleneck");
    assert!(bottleneck.is_some_and(Value::is_string), "{report}");
}

/// Checks the report of a guest that did not move, and gives the error's code and message.
///
/// # Panics
/// When it is not one.
pub fn check_failed<'a>(report: &'a Value, outcome: &str) -> (&'a str, &'a str) {
    assert_eq!(report["outcome"], outcome, "{report}");
    assert_eq!(report["vm_location"], "source");
    let error = &report["error"];
    assert_eq!(error["where"], "source", "{report}");
    assert!(error["retryable"].is_boolean(), "{report}");
    let text = |key: &str| error[key].as_str().filter(|text| !text.is_empty());
    match (text("code"), text("message")) {
        (Some(code), Some(message)) => (code, message),
        _ => panic!("an error has a code and a message: {report}"),
    }
}
