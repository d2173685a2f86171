//! Advice about a guest that is not simply where it was.

use pagelift_control::driver::Side;
use pagelift_engine::migration::{Failure, GuestLocation, MigrationError};

/// What to do about a migration that did not complete; `None` if the guest is well.
pub fn advice(failure: &Failure, side: Side) -> Option<&'static str> {
    Some(match (failure.guest, side) {
        (GuestLocation::Source, _) => return None,
        (GuestLocation::Unknown, _)
            if matches!(failure.error, MigrationError::PromiseUnknown(_)) =>
        {
            "the source's QEMU did not answer when the hand-over was to be recorded. When it answers \
             again it may run the guest by itself, if nothing was recorded. If it does not, once both \
             programs have ended, 'pagelift settle --qmp MONITOR --to MONITOR', with those of the two \
             QEMUs, lets it run on exactly one of them"
        }
        (GuestLocation::Unknown, Side::Source) => {
            "look at the target: if the guest runs there, all is well. If not, once both programs have \
             ended, 'pagelift settle --qmp MONITOR --to MONITOR', with those of the two QEMUs, lets \
             it run on exactly one of them"
        }
        (GuestLocation::Unknown, Side::Target) => {
            "look at the source: if the guest runs there, all is well; end this QEMU. If not, once \
             both programs have ended, 'pagelift settle --qmp MONITOR --to MONITOR', with those of \
             the two QEMUs, lets it run on exactly one of them"
        }
        (GuestLocation::Target, Side::Source) => {
            "look at the target: it said that it has the guest and does not run it. 'pagelift settle \
             --qmp MONITOR' may be tried there; if its QEMU has ended, and the guest never ran there, \
             'pagelift settle --fenced --qmp MONITOR' lets it go on here, as it was when it stopped"
        }
        (GuestLocation::Target, Side::Target) => {
            "the source has given the guest up. 'pagelift settle --qmp MONITOR' has this QEMU run it; \
             if it has ended, and the guest never ran here, 'pagelift settle --fenced --qmp MONITOR' \
             with the source's has that go on, as it was when it stopped"
        }
    })
}
