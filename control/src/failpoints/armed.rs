//! Failpoints of a build that has them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::migration::{Phase, SourceStatus};
use rustix::process::{Signal, getpid, kill_process};

use super::{Failpoint, UnknownFailpoint};

/// The variable that names a point.
const VARIABLE: &str = "PAGELIFT_FAILPOINT";

/// All points by their names.
const NAMES: [(&str, Failpoint); 15] = [
    ("connected", Failpoint::Connected),
    ("first-round", Failpoint::FirstRound),
    ("later-round", Failpoint::LaterRound),
    ("throttled", Failpoint::Throttled),
    ("stopped", Failpoint::Stopped),
    ("last-pages", Failpoint::LastPages),
    ("placed", Failpoint::Placed),
    ("state", Failpoint::State),
    ("loaded", Failpoint::Loaded),
    ("prepared", Failpoint::Prepared),
    ("ready", Failpoint::Ready),
    ("committed", Failpoint::Committed),
    ("given-up", Failpoint::GivenUp),
    ("granted", Failpoint::Granted),
    ("running", Failpoint::Running),
];

static ARMED: OnceLock<Option<Failpoint>> = OnceLock::new();
static DONE: AtomicBool = AtomicBool::new(false);
static CHECKED: AtomicBool = AtomicBool::new(false);

/// Takes note of the point that the environment names. To be called once, at the start.
///
/// # Errors
/// When it names none that exists.
pub fn check_environment() -> Result<(), UnknownFailpoint> {
    let Some(name) = std::env::var_os(VARIABLE) else {
        return Ok(());
    };
    let name = name.to_string_lossy();
    let point = parse(&name).ok_or_else(|| UnknownFailpoint(name.into_owned()))?;
    // A second call reads the same variable.
    ARMED.get_or_init(|| Some(point));
    Ok(())
}

fn parse(name: &str) -> Option<Failpoint> {
    let found = NAMES.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, point)| point)
}

/// The program is at `point`: it stops here if that is the one.
pub fn reached(point: Failpoint) {
    if ARMED.get().copied().flatten() == Some(point) && !DONE.swap(true, Ordering::AcqRel) {
        // A process can always signal itself.
        let _ = kill_process(getpid(), Signal::STOP);
        // Another thread may take the signal, and this one go on for a moment.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The engine asks whether the source's guest is there. It does so before and after its first
/// message to the target.
pub fn checked() {
    if CHECKED.swap(true, Ordering::AcqRel) {
        reached(Failpoint::Connected);
    }
}

/// The source is where `status` says.
pub fn progress(status: &SourceStatus) {
    if status.throttle != ThrottleShare::NONE && !status.phase.is_downtime() {
        reached(Failpoint::Throttled);
    }
    match status.phase {
        Phase::Precopy { round: 1 } => reached(Failpoint::FirstRound),
        Phase::Precopy { .. } => reached(Failpoint::LaterRound),
        Phase::Stopping => {}
        phase if phase.is_downtime() => reached(Failpoint::LastPages),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_one_name() {
        for (index, (name, point)) in NAMES.into_iter().enumerate() {
            assert_eq!(point as usize, index, "{name} is out of order");
            assert_eq!(parse(name), Some(point));
        }
        assert_eq!(parse("nowhere"), None);
    }
}
