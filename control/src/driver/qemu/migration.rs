//! Following QEMU's own migration: its status, its end, and why.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use pagelift_engine::plain_text;
use serde_json::Value;

use super::disks::DiskError;
use super::inspect::InspectError;
use super::other_hands;
use crate::qmp::{Events, Qmp, QmpError, Timestamp};

/// How long one step of QEMU's may take that waits for nothing but QEMU itself.
pub const STEP_LIMIT: Duration = Duration::from_secs(30);

/// How long QEMU may take to wind up a migration that has ended.
const WIND_UP_LIMIT: Duration = Duration::from_secs(2);

/// Name under which QEMU is given its end of the stream.
const STREAM_NAME: &str = "pagelift-stream";

/// Why a step of a hand-over failed.
#[derive(Debug, thiserror::Error)]
pub enum QemuMigrationError {
    /// The source's QEMU says `completed`: its guest must not run any more.
    #[error("the guest has been handed over already; it cannot be taken back")]
    AlreadyHandedOver,
    /// Block jobs run.
    #[error(
        "{0} runs, under which a guest cannot be moved; wait for its end, or cancel it \
         (block-job-cancel)"
    )]
    BlockJobs(String),
    /// A disk could not be made to go through the page cache, or past it again.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// QEMU ended the migration by itself.
    #[error("QEMU's migration is {status}: {reason}")]
    Ended {
        /// `failed` or `cancelled`.
        status: String,
        /// QEMU's own words; its log often has more.
        reason: String,
    },
    /// The guest could not be described.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// QEMU did not answer, or refused.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// The target's guest ran before it was told to.
    #[error(
        "the target's guest started by itself although it was held; the target's QEMU was ended; \
         do not send 'cont' to it during a migration"
    )]
    StartedByItself,
    /// A migration was cancelled, but the guest does not run again.
    #[error("the guest does not run again, its state is {0:?}; send 'cont' to its monitor")]
    StaysStopped(String),
    /// The socket that carries QEMU's stream failed.
    #[error("the socket for QEMU's migration stream: {0}")]
    Stream(#[from] io::Error),
    /// A QEMU is in no state for this step.
    #[error("the guest's state is {found:?}, not {needed:?}")]
    WrongState {
        /// The run state it is in.
        found: String,
        /// The run state it should be in.
        needed: &'static str,
    },
}

/// A change of status that QEMU told.
#[derive(Clone, Debug)]
pub(super) struct Reached {
    pub(super) status: String,
    pub(super) at: Option<Timestamp>,
}

/// Whether a status is the last of a migration.
fn is_final(status: &str) -> bool {
    matches!(status, "cancelled" | "completed" | "failed")
}

/// Waits for `wanted`; `note` sees every event on the way.
///
/// # Errors
/// [`QemuMigrationError::Ended`] when the migration ends otherwise.
pub(super) fn wait_status(
    qmp: &Qmp,
    events: &mut Events,
    wanted: &str,
    limit: Duration,
    mut note: impl FnMut(&str, Option<Timestamp>),
) -> Result<Reached, QemuMigrationError> {
    let what = format!("the migration status {wanted:?}");
    let reached = events.wait(&what, limit, |event| {
        note(&event.name, event.at);
        let status = event.text("status").filter(|_| event.name == "MIGRATION")?;
        (status == wanted || is_final(status)).then(|| Reached {
            status: status.to_owned(),
            at: event.at,
        })
    })?;
    if reached.status == wanted {
        return Ok(reached);
    }
    Err(ended(qmp, &reached.status))
}

/// The error for a migration that has ended with `found`, with what may have been the cause.
pub(super) fn ended(qmp: &Qmp, found: &str) -> QemuMigrationError {
    let mut reason = match (found, status(qmp)) {
        ("cancelling" | "cancelled", _) => "somebody has cancelled it (migrate_cancel)".to_owned(),
        (_, Ok((_, reason))) => reason,
        (_, Err(error)) => error.to_string(),
    };
    // QEMU's own words name no job: "Bad address".
    if let Ok(jobs) = other_hands::block_jobs(qmp)
        && !jobs.is_empty()
    {
        reason.push_str(&format!("; {} runs", jobs.join(", ")));
    }
    QemuMigrationError::Ended {
        status: found.to_owned(),
        reason,
    }
}

/// Waits for the migration to end, however it does; the status it ended with.
pub(super) fn wait_final(qmp: &Qmp, events: &mut Events) -> Result<String, QemuMigrationError> {
    // The last event may have been read before, so ask first.
    let (now, _) = status(qmp)?;
    if now == "none" || is_final(&now) {
        return Ok(now);
    }
    let ended = events.wait("the end of the migration", STEP_LIMIT, |event| {
        let status = event.text("status").filter(|_| event.name == "MIGRATION")?;
        is_final(status).then(|| status.to_owned())
    })?;
    Ok(ended)
}

/// QEMU's migration status (`none` if there never was one), and its reason for a failure.
///
/// # Errors
/// As QMP's.
pub(super) fn status(qmp: &Qmp) -> Result<(String, String), QmpError> {
    let info = qmp.execute("query-migrate", Value::Null)?;
    let text = |key: &str, default: &str| plain_text::line(info[key].as_str().unwrap_or(default));
    Ok((
        text("status", "none"),
        text("error-desc", "QEMU gives no reason"),
    ))
}

/// Lets the guest go on. QEMU refuses that for a moment after a migration has ended, until it has
/// wound it up; it is asked again until then.
///
/// # Errors
/// When QEMU refuses for longer than that.
pub(crate) fn resume(qmp: &Qmp) -> Result<(), QmpError> {
    let deadline = std::time::Instant::now() + WIND_UP_LIMIT;
    loop {
        match qmp.execute("cont", Value::Null) {
            Ok(_) => return Ok(()),
            Err(error) if error.refusal().is_none() || std::time::Instant::now() >= deadline => {
                return Err(error);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Makes a socket pair and gives QEMU one end; our end, and the URI of QEMU's.
pub(super) fn open_stream(qmp: &Qmp) -> Result<(UnixStream, String), QemuMigrationError> {
    let (ours, theirs) = UnixStream::pair()?;
    qmp.getfd(STREAM_NAME, theirs.as_fd())?;
    Ok((ours, format!("fd:{STREAM_NAME}")))
}

/// Takes back what [`open_stream`] gave and QEMU did not use.
pub(super) fn forget_stream(qmp: &Qmp) {
    // It may have been used after all; then QEMU knows the name no more, which is as good.
    let _unknown = qmp.execute("closefd", serde_json::json!({ "fdname": STREAM_NAME }));
}
