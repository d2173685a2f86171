//! Watches for other hands on the same QEMU while RAM is sent.
//!
//! A thread of its own asks: a monitor that answers late must not keep the coordinator from its
//! other work.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pagelift_engine::dirty::DiscardSwitch;

use crate::driver::qemu::other_hands::{self, Devices};
use crate::driver::qemu::preflight;
use crate::qmp::{Qmp, QmpError};

/// Time between two looks, each of which is four commands, or seven.
const PERIOD: Duration = Duration::from_millis(200);

/// A balloon that nobody has used yet, as far as is known: discarded pages are not looked for.
#[derive(Clone, Debug)]
pub(super) struct UnusedBalloon(pub(super) DiscardSwitch);

impl UnusedBalloon {
    /// Has discarded pages be looked for if somebody uses it, or QEMU does not say.
    pub(super) fn look(&self, qmp: &Qmp) {
        if preflight::balloon_is_in_use(qmp).unwrap_or(true) {
            self.0.turn_on();
        }
    }
}

/// Asks until it is dropped, which must be before a migration of ours begins.
#[derive(Debug)]
pub(super) struct OtherHands {
    qmp: Qmp,
    devices: Devices,
    found: Arc<OnceLock<String>>,
    balloon: Option<UnusedBalloon>,
    /// Dropped, the thread ends.
    _until: Sender<()>,
}

impl OtherHands {
    /// Watches the guest behind `qmp`, which had `devices` when it was looked at, and its `balloon`.
    ///
    /// # Errors
    /// When no thread is to be had.
    pub(super) fn watch(
        qmp: Qmp,
        devices: Devices,
        balloon: Option<UnusedBalloon>,
    ) -> std::io::Result<Self> {
        let found = Arc::new(OnceLock::new());
        let (until, dropped) = channel::<()>();
        let seen = Arc::clone(&found);
        let (asked, before, inflated) = (qmp.clone(), devices.clone(), balloon.clone());
        let look = move || {
            while dropped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                if let Some(balloon) = &inflated {
                    balloon.look(&asked);
                }
                match other_hands::found(&asked, &before) {
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
            qmp,
            devices,
            found,
            balloon,
            _until: until,
        })
    }

    /// Ends the watch with a look at what was done since the last one; what was seen, if the guest is
    /// to stay for it.
    ///
    /// # Errors
    /// As QMP's.
    pub(super) fn end(self) -> Result<Option<String>, QmpError> {
        if let Some(balloon) = &self.balloon {
            balloon.look(&self.qmp);
        }
        match self.look() {
            Some(words) => Ok(Some(words)),
            None => other_hands::found(&self.qmp, &self.devices),
        }
    }

    /// What was seen, if the guest is to stay for it.
    pub(super) fn look(&self) -> Option<String> {
        self.found.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::{Value, json};

    use super::*;
    use crate::qmp::Address;

    /// Answers as a QEMU whose guest has a device from the moment that `plugged` says so.
    fn answer(listener: &UnixListener, plugged: &AtomicBool) {
        let (stream, _) = listener.accept().unwrap();
        let mut out = stream.try_clone().unwrap();
        let mut say = |value: Value| writeln!(out, "{value}").unwrap();
        say(json!({ "QMP": { "version": {}, "capabilities": [] } }));
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let command: Value = serde_json::from_str(&line).unwrap();
            let value = match command["execute"].as_str().unwrap() {
                "query-status" => json!({ "status": "running" }),
                "qom-list" if plugged.load(Ordering::SeqCst) => {
                    json!([{ "name": "d1", "type": "child<pc-dimm>" }])
                }
                "qom-list" => json!([]),
                _ => json!({}),
            };
            say(json!({ "return": value, "id": command["id"] }));
        }
    }

    #[test]
    fn what_comes_after_the_last_look_is_seen_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let plugged = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| answer(&listener, &plugged));
            let qmp = Qmp::connect(&Address::Unix(path)).unwrap();
            let devices = Devices::list(&qmp).unwrap();
            let hands = OtherHands::watch(qmp.clone(), devices.clone(), None).unwrap();
            assert_eq!(hands.end().unwrap(), None);
            let hands = OtherHands::watch(qmp, devices, None).unwrap();
            plugged.store(true, Ordering::SeqCst);
            let words = hands.end().unwrap().unwrap();
            assert!(words.contains("d1 (pc-dimm) was plugged in"), "{words}");
        });
    }
}
