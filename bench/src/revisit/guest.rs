//! A guest that stands still and has no state.

use std::time::Duration;

use pagelift_engine::converge::ThrottleShare;
use pagelift_engine::guest::{GuestError, Parts, SourceGuest, StateSender, TargetGuest};
use pagelift_engine::migration::Ownership;

/// It on the source.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    state: Option<StateSender>,
}

impl SourceGuest for Leaving {
    fn attach(&mut self, parts: Parts) {
        self.state = Some(parts.state);
    }

    fn throttle(&mut self, _: ThrottleShare) -> Result<(), GuestError> {
        Ok(())
    }

    fn stop(&mut self) -> Result<Duration, GuestError> {
        Ok(Duration::ZERO)
    }

    fn save_state(&mut self) -> Result<(), GuestError> {
        let state = self.state.as_ref();
        let sent = state.map_or(Ok(()), |state| state.send(b"nothing", true));
        sent.map_err(|error| GuestError(error.to_string()))
    }

    fn give_up(&mut self) -> Result<(), GuestError> {
        Ok(())
    }

    fn resume(&mut self, _: &Ownership) -> Result<(), GuestError> {
        Ok(())
    }
}

/// It on the target.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    incoming: Option<Parts>,
    loaded: bool,
}

impl TargetGuest for Arriving {
    fn attach(&mut self, parts: Parts) -> Result<(), GuestError> {
        self.incoming = Some(parts);
        Ok(())
    }

    fn is_loaded(&mut self) -> Result<bool, GuestError> {
        let parts = self.incoming.as_ref();
        self.loaded |= parts.is_some_and(|parts| parts.incoming.try_recv().is_ok());
        Ok(self.loaded)
    }

    fn run(&mut self, _: &Ownership) -> Result<(), GuestError> {
        Ok(())
    }

    fn abandon(&mut self) {}
}
