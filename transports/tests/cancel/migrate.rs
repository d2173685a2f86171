//! A migration between two threads of this process, and what can be seen of it.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::thread;

use pagelift_engine::codec::dedup::DedupSetting;
use pagelift_engine::codec::{Codec, CompressSetting};
use pagelift_engine::converge::{Policy, ThrottleShare};
use pagelift_engine::migration::{Failure, Report, SourceStatus};
use pagelift_engine::pipeline::{CancelToken, Controls, Settings};
use pagelift_engine::{GuestRam, Incoming, Outgoing};
use pagelift_transports::Endpoint;

use super::guest::{Busy, Here, Same, There};
use super::link::Jammed;

/// What can be seen and changed of a migration while it runs.
pub struct Seen {
    pub jam: Arc<AtomicBool>,
    pub stuck: Arc<AtomicUsize>,
    pub armed: Arc<AtomicBool>,
    pub throttle: Arc<Mutex<ThrottleShare>>,
    pub status: Mutex<Option<SourceStatus>>,
    pub controls: Controls,
}

impl Seen {
    pub fn share(&self) -> ThrottleShare {
        *self.throttle.lock().unwrap()
    }
}

/// Moves the guest with `settings` under `policy`, while `meanwhile` looks on.
pub fn migrate(
    settings: Settings,
    policy: Box<dyn Policy>,
    meanwhile: impl FnOnce(&Seen) + Send,
) -> (Result<Report, Failure>, Arc<Seen>) {
    let here: Endpoint = "tcp://127.0.0.1:0".parse().unwrap();
    let incoming = Incoming::new(here.listen().unwrap(), Same::new(), There);
    let there: Endpoint = incoming.address().parse().unwrap();
    let (dirty, guest) = (Busy::default(), Here::default());
    let seen = Arc::new(Seen {
        jam: Arc::default(),
        stuck: Arc::default(),
        armed: Arc::clone(&dirty.armed),
        throttle: Arc::clone(&guest.throttle),
        status: Mutex::new(None),
        controls: Controls::new(settings, CancelToken::default()),
    });
    let link = Jammed {
        link: there.connect().unwrap(),
        jam: Arc::clone(&seen.jam),
        stuck: Arc::clone(&seen.stuck),
    };
    let ram = GuestRam::new(Same::new(), Box::new(dirty));
    let status = Arc::clone(&seen);
    let outgoing = Outgoing::new(Box::new(link), ram, guest)
        .channels(2)
        .compress(CompressSetting::Fixed(Codec::Raw))
        .dedup(DedupSetting::Off)
        .controls(seen.controls.clone())
        .wrap_policy(|_, _| policy)
        .on_status(move |now| *status.status.lock().unwrap() = Some(*now));
    let target = incoming.start().unwrap();
    let result = thread::scope(|scope| {
        scope.spawn(|| meanwhile(&seen));
        outgoing.start().unwrap().wait().result
    });
    if result.is_err() {
        target.cancel();
    }
    // How it ended there is for others to test.
    let _ = target.wait();
    (result, seen)
}
