//! A guest that stands still, with a few bytes of device state.

use std::io::{Read, Write};

use pagelift_engine::guest::{self, GuestError, SourceGuest, TargetGuest};

/// Its device state.
const STATE: &[u8] = b"nothing";

/// The guest on the source.
#[derive(Debug, Default)]
pub(super) struct Leaving;

impl SourceGuest for Leaving {
    fn pause(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn save_devices(&mut self, out: &mut dyn Write) -> guest::Result<()> {
        let written = out.write_all(STATE);
        written.map_err(|error| GuestError::new("saving its state", error))
    }

    fn relinquish(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn resume(&mut self) -> guest::Result<()> {
        Ok(())
    }
}

/// The guest on the target.
#[derive(Debug, Default)]
pub(super) struct Arriving;

impl TargetGuest for Arriving {
    fn load_devices(&mut self, state: &mut dyn Read) -> guest::Result<()> {
        let mut bytes = [0; STATE.len()];
        let read = state.read_exact(&mut bytes);
        read.map_err(|error| GuestError::new("loading its state", error))
    }

    fn run(&mut self) -> guest::Result<()> {
        Ok(())
    }
}
