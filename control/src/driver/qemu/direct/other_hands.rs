//! Watches for other hands on the same QEMU while RAM is sent.
//!
//! A thread of its own asks: a monitor that answers late must not keep the coordinator from its
//! other work.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::driver::qemu::other_hands::{self, Devices};
use crate::qmp::{Qmp, QmpError};

/// Time between two looks, each of which is four commands.
const PERIOD: Duration = Duration::from_millis(200);

/// Asks until it is dropped, which must be before a migration of ours begins.
#[derive(Debug)]
pub(super) struct OtherHands {
    found: Arc<OnceLock<String>>,
    /// Dropped, the thread ends.
    _until: Sender<()>,
}

impl OtherHands {
    /// Watches the guest behind `qmp`, which had `devices` when it was looked at.
    ///
    /// # Errors
    /// When no thread is to be had.
    pub(super) fn watch(qmp: Qmp, devices: Devices) -> std::io::Result<Self> {
        let found = Arc::new(OnceLock::new());
        let (until, dropped) = channel::<()>();
        let seen = Arc::clone(&found);
        let look = move || {
            while dropped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                match other_hands::found(&qmp, &devices) {
                    Ok(Some(words)) => {
                        // The first is the one to tell.
                        let _ = seen.set(words);
                        return;
                    }
                    Ok(None) | Err(QmpError::Timeout { .. } | QmpError::Refused { .. }) => {}
                    // Of a QEMU that has ended others find out.
                    Err(_) => return,
                }
            }
        };
        std::thread::Builder::new()
            .name("pagelift-watch".into())
            .spawn(look)?;
        Ok(Self {
            found,
            _until: until,
        })
    }

    /// What was seen, if the guest is to stay for it.
    pub(super) fn look(&self) -> Option<String> {
        self.found.get().cloned()
    }
}
