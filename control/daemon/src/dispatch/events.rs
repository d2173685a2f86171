//! Calls about events.

use pagelift_rpc::calls::{EventDeregister, EventRegister, EventRegisterArgs};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};

use super::{Answer, Caller, Dispatcher, Needs};

/// The events that libvirt 11.3 has. Those that never happen here may be registered for, too.
const EVENT_IDS: std::ops::RangeInclusive<i32> = 0..=27;

pub(super) fn add(on: &mut Dispatcher) {
    on.on::<EventRegister>(Needs::Open, register);
    on.on::<EventDeregister>(Needs::Open, |caller, callback_id| {
        caller
            .daemon
            .events()
            .deregister(caller.session, callback_id)
    });
}

fn register(caller: Caller<'_>, args: EventRegisterArgs) -> Answer<i32> {
    let EventRegisterArgs { event_id, domain } = args;
    if !EVENT_IDS.contains(&event_id) {
        let detail = format!("unsupported event ID {event_id}");
        return Err(Error::new(
            ErrorCode::InternalError,
            ErrorDomain::Rpc,
            detail,
        ));
    }
    let guest = domain.map(|domain| domain.uuid);
    caller
        .daemon
        .events()
        .register(caller.session, event_id, guest)
}
