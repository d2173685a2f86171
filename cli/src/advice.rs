//! Advice about a guest that is not simply where it was.

use pagelift_control::driver::Side;
use pagelift_engine::migration::{Failure, GuestLocation, MigrationError};

/// What to do about a migration that did not complete; `None` if the guest is well.
pub fn advice(failure: &Failure, side: Side) -> Option<&'static str> {
    let is_open = matches!(failure.error, MigrationError::PromiseUnknown(_));
    Some(match (failure.guest, side) {
        (GuestLocation::Source, _) => return None,
        (GuestLocation::Unknown, _) if is_open => {
            "look at the source: its QEMU did not answer when the hand-over was to be recorded, and may \
             run the guest by itself when it wakes up. If the guest runs nowhere then, once both programs \
             have ended, 'pagelift settle --qmp MONITOR --to MONITOR', with those of the two QEMUs, lets \
             it run on exactly one of them ('pagelift settle --qmp MONITOR' alone says what to do where \
             they are on two hosts)"
        }
        (GuestLocation::Unknown, Side::Source) => {
            "look at the target: if the guest runs there, all is well. If not, once both programs have \
             ended, 'pagelift settle --qmp MONITOR --to MONITOR', with those of the two QEMUs, lets \
             it run on exactly one of them ('pagelift settle --qmp MONITOR' alone says what to do where \
             they are on two hosts)"
        }
        (GuestLocation::Unknown, Side::Target) => {
            "look at the source: if the guest runs there, all is well; end this QEMU. If not, once \
             both programs have ended, 'pagelift settle --qmp MONITOR --to MONITOR', with those of \
             the two QEMUs, lets it run on exactly one of them ('pagelift settle --qmp MONITOR' alone says \
             what to do where they are on two hosts)"
        }
        (GuestLocation::Target, Side::Source) => {
            "look at the target: it said that it has the guest and does not run it. 'pagelift settle \
             --qmp MONITOR' with its monitor has it run; if its QEMU has ended, and the guest never ran \
             there, 'pagelift settle --fenced --qmp MONITOR' with this one's lets it go on here, as it \
             was when it stopped"
        }
        (GuestLocation::Target, Side::Target) => {
            "the source has given the guest up. 'pagelift settle --qmp MONITOR' with this QEMU's monitor has \
             it run here; if this QEMU has ended, and the guest never ran here, 'pagelift settle --fenced \
             --qmp MONITOR' with the source's lets it go on there, as it was when it stopped"
        }
    })
}
