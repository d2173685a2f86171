//! Details of the report (`--details`): counts, rates and times behind the summary, a line each.

use pagelift_control::throttle::{ThrottleBy, VcpuThrottled};
use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::migration::Report;
use pagelift_engine::units::{ByteCount, PageCount};

use super::{Extra, deltas, forecast, ms, stages};

/// The lines for a completed migration.
pub(super) fn completed(report: &Report, extra: &Extra) -> String {
    let mut lines = vec![downtime_parts(report)];
    lines.extend(forecast::text(report));
    if report.forced {
        lines.push("forced: the guest was stopped at the deadline, whatever the downtime".into());
    }
    lines.push(pages(report));
    lines.extend(dedup(report));
    lines.extend(packed(report));
    lines.extend(extra.delta_cache.as_ref().and_then(deltas::text));
    if let (Some(dirty), Some(link)) = (report.dirty, report.link) {
        lines.push(format!(
            "rates: the guest wrote {dirty} of distinct pages, the link carried {link}"
        ));
    }
    lines.extend(vcpus(&extra.vcpus, extra.throttle_by));
    lines.push(format!(
        "CPU: source {:.2} s, target {:.2} s",
        extra.source_cpu.as_secs_f64(),
        report.target_cpu.as_secs_f64()
    ));
    lines.push(format!(
        "memory: {} beside the guest's, of a budget of {}",
        ByteCount(extra.memory_peak_bytes),
        ByteCount(extra.memory_budget_bytes)
    ));
    lines.push(stages::source_text(&report.stages));
    lines.push(
        match report.verified {
            true => "verified: the digest of all memory was equal on both sides at the switchover",
            false => "not verified: no digest was asked for",
        }
        .into(),
    );
    lines.join("\n")
}

fn downtime_parts(report: &Report) -> String {
    let parts = &report.downtime;
    let mut text = format!(
        "downtime {:.1} ms: stop {:.1}, harvest {:.1}, last pages {:.1}",
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
    text
}

fn pages(report: &Report) -> String {
    let pages = &report.pages;
    format!(
        "pages: {} sent whole, {} as deltas, {} unchanged, {} zero, {} never populated",
        pages.raw, pages.delta, pages.unchanged, pages.zero, pages.skipped
    )
}

fn dedup(report: &Report) -> Option<String> {
    let dedup = &report.dedup;
    (report.pages.reference > 0).then(|| {
        format!(
            "references: {} pages were on the target already, which saved {}; {} were missing \
             and sent again",
            report.pages.reference, dedup.saved, dedup.missing.0
        )
    })
}

/// What packing saved, by the way it was done; `None` if nothing was packed.
fn packed(report: &Report) -> Option<String> {
    let (pages, data) = (&report.pages, &report.encoded);
    let ways = [
        (pages.lz4, data.lz4, "by lz4"),
        (pages.zstd, data.zstd, "by zstd"),
        (pages.delta, data.delta, "by deltas"),
        (
            pages.same_filled,
            data.same_filled,
            "by the word that fills them",
        ),
    ];
    let each: Vec<_> = ways
        .into_iter()
        .filter(|(pages, ..)| *pages > 0)
        .map(|(pages, bytes, how)| {
            format!("{} {how} to {}", PageCount(pages).bytes(), ByteCount(bytes))
        })
        .collect();
    let saved = data.saved(pages);
    (!each.is_empty()).then(|| format!("packed: {}; {saved} saved", each.join(", ")))
}

/// How each vCPU was throttled; `None` if none was.
fn vcpus(vcpus: &[VcpuThrottled], by: Option<ThrottleBy>) -> Option<String> {
    if vcpus.iter().all(|vcpu| vcpu.most == ThrottleShare::NONE) {
        return None;
    }
    let each = |(index, vcpu): (usize, &VcpuThrottled)| match vcpu.most {
        ThrottleShare::NONE => format!("vCPU {index} not at all"),
        most => format!(
            "vCPU {index} up to {most} ({:.2} s lost)",
            vcpu.lost.as_secs_f64()
        ),
    };
    let each: Vec<String> = vcpus.iter().enumerate().map(each).collect();
    let by = match by {
        None => "",
        Some(ThrottleBy::Agent) => " by the agent",
        Some(ThrottleBy::Cgroup) => " by cgroups",
    };
    Some(format!("throttled{by}: {}", each.join(", ")))
}
