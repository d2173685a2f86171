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
    qmp: Qmp,
    devices: Devices,
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
        let (asked, before) = (qmp.clone(), devices.clone());
        let look = move || {
            while dropped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
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
            _until: until,
        })
    }

    /// Ends the watch with a look at what was done since the last one; what was seen, if the guest is
    /// to stay for it.
    ///
    /// # Errors
    /// As QMP's.
    pub(super) fn end(self) -> Result<Option<String>, QmpError> {
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
            let hands = OtherHands::watch(qmp.clone(), devices.clone()).unwrap();
            assert_eq!(hands.end().unwrap(), None);
            let hands = OtherHands::watch(qmp, devices).unwrap();
            plugged.store(true, Ordering::SeqCst);
            let words = hands.end().unwrap().unwrap();
            assert!(words.contains("d1 (pc-dimm) was plugged in"), "{words}");
        });
    }
}
