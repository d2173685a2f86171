//! The report by default: whether the guest moved and where it is, how long that took and how
//! long the guest stood still, what was sent, and the one sentence that matters most.

use std::time::Duration;

use pagelift_control::driver::Side;
use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::migration::{Failure, GuestLocation, MigrationError, Report, TargetStatus};

use pagelift_engine::units::ByteCount;

use super::{Extra, ms, stages};
use crate::advice::advice;

/// The lines for a completed migration.
pub(super) fn completed(report: &Report, extra: &Extra) -> String {
    let mut text = format!(
        "completed: the guest runs on the target\n  \
           total     {:.2} s, {} rounds\n  \
           downtime  {}\n  \
           sent      {} for {} of guest memory",
        report.total.as_secs_f64(),
        report.rounds,
        downtime(report, extra.status.map(|status| status.limit)),
        ByteCount(report.page_wire_bytes.0 + report.state_bytes.0),
        report.guest_bytes,
    );
    if let Some(sentence) = sentence(report, extra) {
        text += "\n  ";
        text += &sentence;
    }
    text
}

/// The lines for a guest that has arrived here in `total`.
pub(super) fn received(status: &TargetStatus, total: Duration) -> String {
    let mut text = format!(
        "completed: the guest is here\n  \
           total     {:.2} s\n  \
           received  {}",
        total.as_secs_f64(),
        status.received,
    );
    if let Some(sentence) = stages::target_sentence(&status.stages) {
        text += "\n  ";
        text += &sentence;
    }
    text
}

/// The lines for a migration that did not complete.
pub(super) fn failed(failure: &Failure, side: Side, extra: &Extra) -> String {
    let (why, remedy) = why(failure);
    let mut text = format!("error: {why}");
    if let Some(remedy) = remedy {
        text += "\n";
        text += &remedy;
    }
    if let Some(status) = extra.status.filter(|status| status.round > 0) {
        text += &format!(
            "\nended after {:.2} s in round {}, {} sent",
            extra.elapsed.as_secs_f64(),
            status.round,
            status.sent
        );
    }
    text += "\n";
    text += place(failure);
    if let Some(time) = extra.freed_after {
        text += &format!(", at full speed {:.1} ms after the request", ms(time));
    }
    if let Some(advice) = advice(failure, side) {
        text += "; ";
        text += advice;
    }
    text
}

/// Why it did not complete, and what would have worked, if that is known.
pub(crate) fn why(failure: &Failure) -> (String, Option<String>) {
    match &failure.error {
        MigrationError::NotConverging(given_up) => (
            given_up.reason.to_string(),
            Some(given_up.remedy.to_string()),
        ),
        error => (error.to_string(), None),
    }
}

/// Where the guest is after a migration that did not complete.
pub(crate) fn place(failure: &Failure) -> &'static str {
    match failure.guest {
        GuestLocation::Source if failure.error.ended_guest() => "the guest does not run any more",
        GuestLocation::Source => "the guest is on the source",
        GuestLocation::Target => "the guest is on the target",
        GuestLocation::Unknown => "it is not known where the guest is",
    }
}

/// The downtime beside its limit. The limit does not cover the comparison of all memory, which
/// `--verify` asks for.
fn downtime(report: &Report, limit: Option<Duration>) -> String {
    let parts = &report.downtime;
    let moving = ms(parts.without_digests());
    let mut text = format!("{:.1} ms", ms(parts.total()));
    if report.verified {
        let comparing = ms(parts.verify);
        text += &format!(": moving {moving:.1}, comparing all memory {comparing:.1}");
    }
    if let Some(limit) = limit {
        text += &format!(" (limit {} ms)", ms(limit));
    }
    text
}

/// What bounded the migration.
pub(crate) fn sentence(report: &Report, extra: &Extra) -> Option<String> {
    let moving = report.downtime.without_digests();
    let limit = extra.status.map(|status| status.limit);
    if report.forced {
        return Some(
            "the deadline had passed, so the guest was stopped although the downtime was over its limit".into(),
        );
    }
    if let Some(limit) = limit.filter(|limit| moving > *limit) {
        let (part, time) = longest_part(report);
        return Some(format!(
            "the downtime was {:.1} ms over its limit; {part} took {:.1} ms of it",
            ms(moving.saturating_sub(limit)),
            ms(time)
        ));
    }
    if report.throttle_most > ThrottleShare::NONE {
        let most = report.throttle_most;
        let lost = extra.lost_work().map_or_else(String::new, |lost| {
            format!(", which cost it {:.2} s of work", lost.as_secs_f64())
        });
        return Some(format!(
            "the guest wrote too fast for the link: it was throttled by up to {most}{lost}"
        ));
    }
    stages::source_sentence(&report.stages)
}

/// The longest part of the downtime that its limit covers.
fn longest_part(report: &Report) -> (&'static str, Duration) {
    let parts = &report.downtime;
    let all = [
        ("stopping the guest", parts.stop),
        ("the last harvest of dirty pages", parts.harvest),
        ("sending the last pages", parts.pages),
        ("device state", parts.state),
        ("the hand-over", parts.hand_over),
    ];
    let longest = all.into_iter().max_by_key(|(_, time)| *time);
    longest.unwrap_or(("nothing", Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagelift_engine::migration::{DowntimeParts, Phase, SourceStages, SourceStatus, StageTime};
    use pagelift_engine::units::{PageCount, Rate};

    fn report() -> Report {
        Report {
            total: Duration::from_millis(12_410),
            downtime: DowntimeParts {
                stop: Duration::from_millis(2),
                pages: Duration::from_millis(16),
                ..DowntimeParts::default()
            },
            rounds: 5,
            guest_bytes: ByteCount(1 << 30),
            page_wire_bytes: ByteCount(3 << 29),
            stages: SourceStages {
                send: StageTime {
                    busy: Duration::from_secs(1),
                    waiting: Duration::from_secs(4),
                },
                ..SourceStages::default()
            },
            dirty: Some(Rate(90 << 20)),
            link: Some(Rate(100 << 20)),
            ..Report::default()
        }
    }

    fn extra() -> Extra {
        Extra {
            elapsed: Duration::from_millis(3200),
            status: Some(SourceStatus {
                phase: Phase::Precopy { round: 2 },
                round: 2,
                left: PageCount(0),
                sent: ByteCount(12 << 20),
                dirty: None,
                link: None,
                forecast: None,
                limit: Duration::from_millis(50),
                convergence: None,
                forced: false,
                throttle: ThrottleShare::NONE,
                stages: SourceStages::default(),
            }),
            ..Extra::default()
        }
    }

    fn last_line(report: &Report) -> String {
        let text = completed(report, &extra());
        text.lines().last().unwrap_or_default().trim().to_owned()
    }

    #[test]
    fn a_completed_move_takes_five_lines() {
        assert_eq!(
            completed(&report(), &extra()),
            "completed: the guest runs on the target\n  \
               total     12.41 s, 5 rounds\n  \
               downtime  18.0 ms (limit 50 ms)\n  \
               sent      1.5 GiB for 1.0 GiB of guest memory\n  \
               the link was the bottleneck: sending waited for it 80 % of the time"
        );
    }

    #[test]
    fn the_last_line_says_what_matters_most() {
        let mut report = report();
        report.throttle_most = ThrottleShare::permille(400);
        assert_eq!(
            last_line(&report),
            "the guest wrote too fast for the link: it was throttled by up to 40 %"
        );
        report.downtime.pages = Duration::from_millis(60);
        assert_eq!(
            last_line(&report),
            "the downtime was 12.0 ms over its limit; sending the last pages took 60.0 ms of it"
        );
        report.forced = true;
        assert!(last_line(&report).starts_with("the deadline had passed"));
    }

    /// Comparing all memory is not bounded by the limit, and must not look as if it were.
    #[test]
    fn comparing_all_memory_is_set_apart() {
        let mut report = report();
        report.verified = true;
        report.downtime.verify = Duration::from_millis(120);
        let text = completed(&report, &extra());
        assert!(
            text.contains("138.0 ms: moving 18.0, comparing all memory 120.0 (limit 50 ms)"),
            "{text}"
        );
        assert!(last_line(&report).starts_with("the link was the bottleneck"));
    }

    #[test]
    fn a_failure_says_why_how_far_it_got_and_where_the_guest_is() {
        let failure = Failure {
            error: MigrationError::Cancelled,
            guest: GuestLocation::Source,
        };
        let extra = Extra {
            freed_after: Some(Duration::from_millis(8)),
            ..extra()
        };
        assert_eq!(
            failed(&failure, Side::Source, &extra),
            "error: cancelled\n\
             ended after 3.20 s in round 2, 12.0 MiB sent\n\
             the guest is on the source, at full speed 8.0 ms after the request"
        );
        assert_eq!(
            failed(&failure, Side::Target, &Extra::default()),
            "error: cancelled\nthe guest is on the source"
        );
    }
}
