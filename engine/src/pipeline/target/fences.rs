//! The fence between a one-sided source and the guest.
//!
//! A source that writes this side's memory by itself goes on to be able to, whatever the protocol says,
//! until its access is taken away. So it is, on every connection, before the guest touches its memory
//! here, and when the migration is over without it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::memory::GuestMemory;
use crate::migration::MigrationError;
use crate::transport::{Expose, Fence};

/// The fences of all connections.
#[derive(Default)]
pub(super) struct Fences(Mutex<State>);

#[derive(Default)]
struct State {
    fences: Vec<Box<dyn Fence>>,
    /// Nothing is exposed any more.
    closed: bool,
}

impl std::fmt::Debug for Fences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fences").finish_non_exhaustive()
    }
}

impl Fences {
    /// Lets the source write `memory` by a connection, until the fences are closed.
    ///
    /// # Errors
    /// When they are, or the memory cannot be exposed.
    pub(super) fn expose(
        &self,
        connection: Box<dyn Expose>,
        memory: Arc<dyn GuestMemory>,
    ) -> Result<(), MigrationError> {
        let failed = |source| MigrationError::Link {
            what: "the memory cannot be made accessible to the source",
            source,
        };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(failed(io::ErrorKind::PermissionDenied.into()));
        }
        let fence = connection.expose(memory).map_err(failed)?;
        state.fences.push(fence);
        Ok(())
    }

    /// Takes the access away, on all connections and for good.
    ///
    /// # Errors
    /// When the access of one could not be taken away: the guest must not run.
    pub(super) fn close(&self) -> Result<(), MigrationError> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        let mut result = Ok(());
        for fence in &mut state.fences {
            if let Err(source) = fence.close() {
                result = Err(MigrationError::Link {
                    what: "the source can still write this side's memory",
                    source,
                });
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::memory::FileMemory;
    use crate::units::PAGE_BYTES;

    /// Says how often it was closed; the first time it may fail.
    struct Counting {
        closed: Arc<AtomicU32>,
        fails: bool,
    }

    impl Expose for Counting {
        fn expose(self: Box<Self>, _: Arc<dyn GuestMemory>) -> io::Result<Box<dyn Fence>> {
            Ok(self)
        }
    }

    impl Fence for Counting {
        fn close(&mut self) -> io::Result<()> {
            self.closed.fetch_add(1, Ordering::Relaxed);
            match std::mem::take(&mut self.fails) {
                true => Err(io::ErrorKind::ResourceBusy.into()),
                false => Ok(()),
            }
        }
    }

    #[test]
    fn all_are_closed_also_where_one_fails_and_none_is_opened_afterwards() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGE_BYTES as u64).unwrap();
        let memory: Arc<dyn GuestMemory> = Arc::new(FileMemory::whole(file).unwrap());
        let counts = [0; 2].map(|_| Arc::new(AtomicU32::new(0)));
        let fence = |number: usize, fails| {
            let closed = Arc::clone(&counts[number]);
            Box::new(Counting { closed, fails })
        };
        let fences = Fences::default();
        for (number, fails) in [(0, true), (1, false)] {
            let exposed = fences.expose(fence(number, fails), Arc::clone(&memory));
            exposed.unwrap();
        }
        assert!(fences.close().is_err());
        let closed = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        assert_eq!(closed, [1, 1]);
        assert!(fences.close().is_ok(), "it is tried again");
        assert!(fences.expose(fence(0, false), memory).is_err());
    }
}
