//! Advice about a guest that is not simply where it was.

use pagelift_control::driver::Side;
use pagelift_engine::migration::{Failure, GuestLocation};

/// What to do about a migration that did not complete; `None` if the guest is well.
pub fn advice(failure: &Failure, side: Side) -> Option<&'static str> {
    Some(match (failure.guest, side) {
        (GuestLocation::Source, _) => return None,
        (GuestLocation::Unknown, Side::Source) => {
            "look at the target: if the guest runs there, all is well. If it does not, make sure \
             that pagelift-receive has ended, end the target's QEMU, and send 'cont' to this one, \
             which has the guest as it was when it stopped"
        }
        (GuestLocation::Unknown, Side::Target) => {
            "look at the source: if the guest runs there, all is well; end this QEMU. If it is \
             stopped there ('postmigrate'), make sure that pagelift-send has ended, and send \
             'cont' to one of the two: both have the whole guest"
        }
        (GuestLocation::Target, Side::Source) => {
            "look at the target: it said that it has the guest and does not run it. 'cont' may be \
             tried there; if its QEMU has ended, send 'cont' to this one, which has the guest as \
             it was when it stopped"
        }
        (GuestLocation::Target, Side::Target) => {
            "the source has given the guest up. Send 'cont' to this QEMU; if it has ended, and \
             the guest never ran here, send it to the source's, which has the guest as it was \
             when it stopped"
        }
    })
}
