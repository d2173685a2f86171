//! A migration between two threads of this process, and what can be seen of it.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::thread;

use pagelift_engine::codec::choose::CpuLimit;
use pagelift_engine::codec::reference::ReferenceSetting;
use pagelift_engine::codec::{Codec, CompressSetting};
use pagelift_engine::converge::{Policy, ThrottleShare};
use pagelift_engine::migration::{Failure, Ownership, Report, SourceStatus};
use pagelift_engine::pipeline::{
    CancelToken, Controls, KeptPages, ReceiveJob, SendJob, SendOptions, Settings, receive, send,
};
use pagelift_engine::wire::SessionId;
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
) -> (Result<Report, Failure>, Seen) {
    let here: Endpoint = "tcp://127.0.0.1:0".parse().unwrap();
    let listener = here.listen().unwrap();
    let there: Endpoint = listener.address().parse().unwrap();
    let (mut dirty, mut guest) = (Busy::default(), Here::default());
    let seen = Seen {
        jam: Arc::default(),
        stuck: Arc::default(),
        armed: Arc::clone(&dirty.armed),
        throttle: Arc::clone(&guest.throttle),
        status: Mutex::new(None),
        controls: Controls::new(settings, CancelToken::default()),
    };
    let link = Jammed {
        link: there.connect().unwrap(),
        jam: Arc::clone(&seen.jam),
        stuck: Arc::clone(&seen.stuck),
    };
    let give_up = CancelToken::default();
    let result = thread::scope(|scope| {
        let target = scope.spawn(|| {
            receive(ReceiveJob {
                listener: &*listener,
                memory: Same::new(),
                guest: &mut There,
                facts: Vec::new(),
                kept: KeptPages::new(None, 0),
                cancel: give_up.clone(),
                progress: &mut |_| {},
            })
        });
        scope.spawn(|| meanwhile(&seen));
        let result = send(SendJob {
            link: &link,
            memory: Same::new(),
            dirty: &mut dirty,
            guest: &mut guest,
            ownership: Ownership::claim(),
            options: SendOptions {
                session: SessionId(7),
                channels: 2,
                verify: false,
                facts: Vec::new(),
                compress: CompressSetting::Fixed(Codec::Raw),
                deltas: None,
                cpu: CpuLimit::default(),
                references: ReferenceSetting::Off,
                policy,
            },
            controls: seen.controls.clone(),
            progress: &mut |status| *seen.status.lock().unwrap() = Some(*status),
        });
        if result.is_err() {
            give_up.cancel();
        }
        // How it ended there is for others to test.
        let _ = target.join().unwrap();
        result
    });
    (result, seen)
}
