//! The report as one JSON object, for scripts.
//!
//! The keys are a contract: none is removed or changes its meaning; new ones may be added.

use std::time::Duration;

use pagelift_control::driver::Side;
use pagelift_control::job::json as job;
use pagelift_control::throttle::{ThrottleBy, VcpuThrottled};
use pagelift_engine::migration::{Failure, GuestLocation, MigrationError, Report};
use serde_json::{Value, json};

use super::{Extra, forecast, ms};
use crate::advice::advice;

/// The object for a completed migration.
pub fn completed(report: &Report, extra: &Extra) -> Value {
    let parts = &report.downtime;
    let mut object = json!({
        "outcome": "completed",
        "vm_location": GuestLocation::Target.name(),
        "total_ms": ms(report.total),
        "blackout_ms": ms(parts.total()),
        "blackout_forecast_ms": report.forecast.map(|parts| ms(parts.total().likely())),
        "blackout_forecast": forecast::json(report),
        "blackout_parts": {
            "stop_ms": ms(parts.stop),
            "harvest_ms": ms(parts.harvest),
            "pages_ms": ms(parts.pages),
            "verify_ms": ms(parts.verify),
            "state_ms": ms(parts.state),
            "hand_over_ms": ms(parts.hand_over),
        },
        "downtime_limit_ms": extra.status.map(|status| ms(status.limit)),
        "forced": report.forced,
        "rounds": report.rounds,
        "guest_bytes": report.guest_bytes.0,
        "wire_bytes": report.page_wire_bytes.0 + report.state_bytes.0,
        "state_bytes": report.state_bytes.0,
        "pages": {
            "skipped": report.pages.skipped,
            "zero": report.pages.zero,
            "raw": report.pages.raw,
            "placed": report.pages.placed,
            "delta": report.pages.delta,
            "unchanged": report.pages.unchanged,
            "fill": report.pages.same_filled,
            "lz4": report.pages.lz4,
            "zstd": report.pages.zstd,
            "reference": report.pages.reference,
        },
        "references": {
            "saved_bytes": report.dedup.saved.0,
            "missing_pages": report.dedup.missing.0,
            "catalogue_pages": report.dedup.base_pages.0,
        },
        "data_bytes": {
            "fill": report.encoded.same_filled,
            "raw": report.encoded.raw,
            "delta": report.encoded.delta,
            "lz4": report.encoded.lz4,
            "zstd": report.encoded.zstd,
            "reference": report.encoded.reference,
        },
        "saved_bytes": report.encoded.saved(&report.pages).0,
        "delta_cache": job::delta_cache(extra.delta_cache.as_ref()),
        "stages": job::source_stages(&report.stages),
        "dirty_bytes_per_s": report.dirty.map(|rate| rate.0),
        "link_bytes_per_s": report.link.map(|rate| rate.0),
        "throttle_pct_max": report.throttle_most.as_fraction() * 100.0,
        "throttle_by": extra.throttle_by.map(ThrottleBy::name),
        "vcpus": extra.vcpus.iter().map(vcpu).collect::<Vec<_>>(),
        "guest_slowdown_s": extra.guest_slowdown.map(|time| time.as_secs_f64()),
        "cpu_s": {
            "source": extra.source_cpu.as_secs_f64(),
            "target": report.target_cpu.as_secs_f64(),
        },
        "memory_bytes": { "budget": extra.memory_budget_bytes, "peak": extra.memory_peak_bytes },
        "verified": report.verified,
        "error": null,
    });
    job::name_downtime(&mut object);
    object
}

/// The object of one vCPU.
fn vcpu(vcpu: &VcpuThrottled) -> Value {
    json!({
        "throttle_pct_max": vcpu.most.as_fraction() * 100.0,
        "throttle_lost_s": vcpu.lost.as_secs_f64(),
    })
}

/// The object for a migration that did not complete.
pub fn failed(failure: &Failure, side: Side, freed_after: Option<Duration>) -> Value {
    let outcome = match (&failure.error, failure.guest) {
        (_, GuestLocation::Unknown) => "unknown",
        (MigrationError::Cancelled, _) => "cancelled",
        _ => "failed",
    };
    json!({
        "outcome": outcome,
        "vm_location": failure.guest.name(),
        "guest_freed_after_ms": freed_after.map(ms),
        "error": {
            "code": failure.error.code(),
            "message": failure.error.to_string(),
            "where": failure.guest.name(),
            "retryable": failure.error.retryable(),
            "advice": advice(failure, side),
            "remedy": forecast::remedy_json(&failure.error),
        },
    })
}

/// The object for a migration that did not begin, for a reason that has nothing to do with the
/// guest.
pub fn not_begun(message: &str) -> Value {
    json!({
        "outcome": "failed",
        "vm_location": GuestLocation::Source.name(),
        "guest_freed_after_ms": null,
        "error": {
            "code": "not-begun",
            "message": message,
            "where": GuestLocation::Source.name(),
            "retryable": false,
            "advice": null,
            "remedy": null,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_downtime_has_the_word_of_the_options_and_keeps_its_old_keys() {
        let object = completed(&Report::default(), &Extra::default());
        for (old, new) in [
            ("blackout_ms", "downtime_ms"),
            ("blackout_forecast_ms", "downtime_forecast_ms"),
            ("blackout_forecast", "downtime_forecast"),
            ("blackout_parts", "downtime_parts"),
        ] {
            assert!(object.get(old).is_some(), "{old}: {object}");
            assert_eq!(object.get(old), object.get(new), "{new}: {object}");
        }
    }
}
