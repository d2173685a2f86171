//! The report: one JSON object for scripts, or a few lines for people.
//!
//! The keys of the object are a contract; new ones may be added.

use std::time::Duration;

use pagelift_control::driver::qemu::direct::{ThrottleBy, Throttled};
use pagelift_engine::codec::cache::CacheStats;
use pagelift_engine::converge::Share;
use pagelift_engine::migration::{Failure, GuestLocation, MigrationError, Report};
use pagelift_engine::units::{ByteCount, PageCount};
use serde_json::{Value, json};

use crate::advice::{Side, advice};
use crate::{deltas, forecast, stages};

/// What a report says beyond what the engine saw.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// CPU time this process used.
    pub source_cpu: Duration,
    /// Work that the guest lost, in seconds of its full speed; `None` where nobody can tell.
    pub guest_slowdown: Option<Duration>,
    /// How each vCPU was throttled, by index; empty where nobody can tell.
    pub vcpus: Vec<Throttled>,
    /// Who throttles it when it must be; `None`: the guest itself.
    pub throttle_by: Option<ThrottleBy>,
    /// What the cache of old contents came to, if there was one.
    pub delta_cache: Option<CacheStats>,
    /// Most memory a migration may take in this process, in bytes, next to the guest's.
    pub memory_budget_bytes: u64,
    /// Most memory it was seen to take.
    pub memory_peak_bytes: u64,
}

/// The object for a completed migration.
pub fn completed_json(report: &Report, extra: &Extra) -> Value {
    let parts = &report.blackout;
    json!({
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
        "forced": report.forced,
        "rounds": report.rounds,
        "guest_bytes": report.guest_bytes.0,
        "wire_bytes": report.page_wire_bytes.0 + report.state_bytes.0,
        "state_bytes": report.state_bytes.0,
        "pages": {
            "skipped": report.pages.skipped,
            "zero": report.pages.zero,
            "raw": report.pages.raw,
            "delta": report.pages.delta,
            "unchanged": report.pages.unchanged,
            "fill": report.pages.fill,
            "lz4": report.pages.lz4,
            "zstd": report.pages.zstd,
            "reference": report.pages.reference,
        },
        "references": {
            "saved_bytes": report.references.saved.0,
            "missing_pages": report.references.missing.0,
            "catalogue_pages": report.references.catalogue.0,
        },
        "data_bytes": {
            "fill": report.data.fill,
            "raw": report.data.raw,
            "delta": report.data.delta,
            "lz4": report.data.lz4,
            "zstd": report.data.zstd,
            "reference": report.data.reference,
        },
        "saved_bytes": report.data.saved(&report.pages).0,
        "delta_cache": deltas::json(extra.delta_cache.as_ref()),
        "stages": stages::source_json(&report.stages),
        "dirty_bytes_per_s": report.dirty.map(|rate| rate.0),
        "link_bytes_per_s": report.link.map(|rate| rate.0),
        "throttle_pct_max": report.throttle_most.as_fraction() * 100.0,
        "throttle_by": extra.throttle_by.map(ThrottleBy::name),
        "vcpus": extra.vcpus.iter().map(vcpu_json).collect::<Vec<_>>(),
        "guest_slowdown_s": extra.guest_slowdown.map(|time| time.as_secs_f64()),
        "cpu_s": {
            "source": extra.source_cpu.as_secs_f64(),
            "target": report.target_cpu.as_secs_f64(),
        },
        "memory_bytes": { "budget": extra.memory_budget_bytes, "peak": extra.memory_peak_bytes },
        "verified": report.verified,
        "error": null,
    })
}

/// One vCPU.
fn vcpu_json(vcpu: &Throttled) -> Value {
    json!({
        "throttle_pct_max": vcpu.most.as_fraction() * 100.0,
        "throttle_lost_s": vcpu.lost.as_secs_f64(),
    })
}

/// The line about vCPUs that were throttled, if one was.
fn vcpus_text(vcpus: &[Throttled], by: Option<ThrottleBy>) -> String {
    if vcpus.iter().all(|vcpu| vcpu.most == Share::NONE) {
        return String::new();
    }
    let word = |(index, vcpu): (usize, &Throttled)| match vcpu.most {
        Share::NONE => format!("vCPU {index} not at all"),
        most => format!(
            "vCPU {index} up to {most} ({:.2} s lost)",
            vcpu.lost.as_secs_f64()
        ),
    };
    let words: Vec<String> = vcpus.iter().enumerate().map(word).collect();
    let by = match by {
        None => "",
        Some(ThrottleBy::Agent) => " by the agent",
        Some(ThrottleBy::Cgroup) => " by cgroups",
    };
    format!("throttled{by}: {}\n", words.join(", "))
}

/// The object for a migration that did not complete; one that was cancelled freed its guest
/// `freed_after` the request.
pub fn failed_json(failure: &Failure, side: Side, freed_after: Option<Duration>) -> Value {
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

/// The object for a migration that was not begun, because of something beside the guest.
pub fn not_begun_json(message: &str) -> Value {
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

/// The lines for a completed migration.
pub fn completed_text(report: &Report, extra: &Extra) -> String {
    let parts = &report.blackout;
    let pages = &report.pages;
    let mut text = format!(
        "completed in {:.2} s: {} rounds, {} on the wire for {} of guest memory\n",
        report.total.as_secs_f64(),
        report.rounds,
        report.page_wire_bytes,
        report.guest_bytes,
    );
    text += &format!(
        "blackout {:.1} ms: stop {:.1}, harvest {:.1}, last pages {:.1}",
        ms(parts.total()),
        ms(parts.stop),
        ms(parts.harvest),
        ms(parts.pages)
    );
    if report.verified {
        text += &format!(", digest of all memory {:.1}", ms(parts.verify));
    }
    text += &format!(
        ", state {:.1}, hand-over {:.1}",
        ms(parts.state),
        ms(parts.hand_over)
    );
    if let Some(words) = forecast::text(report) {
        text += &format!("\n{words}");
    }
    if report.forced {
        text += "\nforced: the deadline was over, and the guest was stopped whatever the blackout";
    }
    text += &format!(
        "\npages: {} sent whole, {} as deltas, {} unchanged, {} zero, {} never populated\n",
        pages.raw, pages.delta, pages.unchanged, pages.zero, pages.skipped
    );
    let references = &report.references;
    if pages.reference > 0 {
        text += &format!(
            "references: {} pages were there already, which saved {}; {} were missing and sent \
             again\n",
            pages.reference, references.saved, references.missing.0
        );
    }
    text += &packed_text(report);
    if let Some(words) = extra.delta_cache.as_ref().and_then(deltas::text) {
        text += &format!("{words}\n");
    }
    if let (Some(dirty), Some(link)) = (report.dirty, report.link) {
        text +=
            &format!("rates: the guest wrote {dirty} of distinct pages, the link carried {link}\n");
    }
    text += &vcpus_text(&extra.vcpus, extra.throttle_by);
    text += &format!(
        "CPU: source {:.2} s, target {:.2} s\n",
        extra.source_cpu.as_secs_f64(),
        report.target_cpu.as_secs_f64()
    );
    text += &stages::source_text(&report.stages);
    text.push('\n');
    text += match report.verified {
        true => "verified: the digest of all memory was equal on both sides at the switchover",
        false => "not verified: no digest was asked for",
    };
    text
}

/// The line about what packing saved; empty if nothing was.
fn packed_text(report: &Report) -> String {
    let (pages, data) = (&report.pages, &report.data);
    let saved = data.saved(pages);
    let packed = [
        (pages.lz4, data.lz4, "by lz4"),
        (pages.zstd, data.zstd, "by zstd"),
        (pages.delta, data.delta, "by deltas"),
        (pages.fill, data.fill, "by the word that fills them"),
    ];
    let each: Vec<_> = packed
        .into_iter()
        .filter(|(pages, ..)| *pages > 0)
        .map(|(pages, bytes, how)| {
            format!("{} {how} to {}", PageCount(pages).bytes(), ByteCount(bytes))
        })
        .collect();
    if each.is_empty() {
        return String::new();
    }
    format!("packed: {}; {saved} saved\n", each.join(", "))
}

/// The lines for a migration that did not complete.
pub fn failed_text(failure: &Failure, side: Side, freed_after: Option<Duration>) -> String {
    let place = match failure.guest {
        GuestLocation::Source if failure.error.ended_guest() => "the guest does not run any more",
        GuestLocation::Source => "the guest is on the source",
        GuestLocation::Target => "the guest is on the target",
        GuestLocation::Unknown => "where the guest is, is not known",
    };
    let mut text = format!("error: {}\n{place}", failure.error);
    if let Some(time) = freed_after {
        text += &format!(", at full speed {:.1} ms after the request", ms(time));
    }
    if let Some(advice) = advice(failure, side) {
        text += "; ";
        text += advice;
    }
    text
}

/// Milliseconds, to the microsecond.
pub(crate) fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
