//! Migrations over real sockets that are cancelled, or changed, while threads sit in calls.
//!
//! How long after the request the guest was free is printed; only that it is free is asserted.

use std::io::{self, IoSlice, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pagelift_engine::codec::choose::CpuLimit;
use pagelift_engine::codec::reference::ReferenceSetting;
use pagelift_engine::codec::{Codec, CompressSetting};
use pagelift_engine::converge::{
    AtDeadline, Decision, Downtime, Limits, Observation, Policy, Share, Steered,
};
use pagelift_engine::dirty::{DirtyError, DirtySource};
use pagelift_engine::memory::{Layout, MemoryError, PageBitmap, ReadPages, Region, WritePages};
use pagelift_engine::migration::{
    Failure, GuestLocation, MigrationError, Report, RunRight, SourceStatus,
};
use pagelift_engine::pipeline::{
    CancelToken, Closer, Connection, Controls, GuestError, KeptPages, Link, Parts, ReceiveJob,
    SendJob, SendOptions, Settings, SourceGuest, TargetGuest, receive, send,
};
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount, PageIndex, PageRange, Rate};
use pagelift_engine::wire::SessionId;
use pagelift_transports::tcp::{TcpLink, TcpServer};

const PAGES: u64 = 4096;

/// Far longer than anything takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Memory that always holds the same, and forgets what it is given.
struct Same(Layout);

impl Same {
    fn new() -> Arc<Self> {
        let region = Region {
            name: "ram".into(),
            pages: PageCount(PAGES),
            backing_page: ByteCount(PAGE_BYTES as u64),
        };
        Arc::new(Self(Layout::new(vec![region]).unwrap()))
    }
}

impl ReadPages for Same {
    fn layout(&self) -> &Layout {
        &self.0
    }

    fn read(&self, _: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        out.fill(0x5a);
        Ok(())
    }

    fn populated(&self, into: &mut PageBitmap) -> Result<(), MemoryError> {
        into.insert(PageRange::new(0, PAGES));
        Ok(())
    }
}

impl WritePages for Same {
    fn layout(&self) -> &Layout {
        &self.0
    }

    fn write(&self, _: PageIndex, _: &[u8]) -> Result<(), MemoryError> {
        Ok(())
    }

    fn write_zeros(&self, _: PageRange) -> Result<(), MemoryError> {
        Ok(())
    }
}

/// A guest that writes all its memory all the time.
#[derive(Default)]
struct Busy {
    armed: Arc<AtomicBool>,
}

impl DirtySource for Busy {
    fn arm(&mut self) -> Result<(), DirtyError> {
        self.armed.store(true, Ordering::Release);
        Ok(())
    }

    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        into.insert(PageRange::new(0, PAGES));
        Ok(())
    }

    fn give_back(&mut self, _: &PageBitmap) {}

    fn disarm(&mut self) {
        self.armed.store(false, Ordering::Release);
    }
}

#[derive(Default)]
struct Here {
    throttle: Arc<Mutex<Share>>,
    parts: Option<Parts>,
}

impl SourceGuest for Here {
    fn attach(&mut self, parts: Parts) {
        self.parts = Some(parts);
    }

    fn throttle(&mut self, share: Share) -> Result<(), GuestError> {
        *self.throttle.lock().unwrap() = share;
        Ok(())
    }

    fn stop(&mut self) -> Result<Duration, GuestError> {
        Ok(Duration::ZERO)
    }

    fn save_state(&mut self) -> Result<(), GuestError> {
        let parts = self.parts.as_ref().unwrap();
        parts.state.send(b"state", true).unwrap();
        Ok(())
    }

    fn give_up(&mut self) -> Result<(), GuestError> {
        Ok(())
    }

    fn resume(&mut self, _: &RunRight) -> Result<(), GuestError> {
        Ok(())
    }
}

#[derive(Default)]
struct There {
    parts: Option<Parts>,
}

impl TargetGuest for There {
    fn attach(&mut self, parts: Parts) -> Result<(), GuestError> {
        self.parts = Some(parts);
        Ok(())
    }

    fn is_loaded(&mut self) -> Result<bool, GuestError> {
        let parts = self.parts.as_ref().unwrap();
        Ok(parts.incoming.try_iter().any(|chunk| chunk.last))
    }

    fn run(&mut self, _: &RunRight) -> Result<(), GuestError> {
        Ok(())
    }

    fn abandon(&mut self) {}
}

/// A link whose connections take nothing any more once it is jammed, like those to a host that
/// hangs.
struct Jammed {
    link: TcpLink,
    jam: Arc<AtomicBool>,
    /// Writers of the control connection, the first one, that are stuck.
    stuck: Arc<AtomicUsize>,
    connections: AtomicUsize,
}

struct Stuck {
    inner: Box<dyn Write + Send>,
    jam: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
    stuck: Option<Arc<AtomicUsize>>,
}

impl Stuck {
    fn pass(&self) -> io::Result<()> {
        if let Some(stuck) = &self.stuck
            && self.jam.load(Ordering::Acquire)
        {
            stuck.fetch_add(1, Ordering::AcqRel);
        }
        while self.jam.load(Ordering::Acquire) {
            if self.closed.load(Ordering::Acquire) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pass()?;
        self.inner.write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.pass()?;
        self.inner.write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Link for Jammed {
    fn dial(&self) -> io::Result<Connection> {
        let connection = self.link.dial()?;
        let closed = Arc::new(AtomicBool::new(false));
        let first = self.connections.fetch_add(1, Ordering::AcqRel) == 0;
        let tx = Box::new(Stuck {
            inner: connection.tx,
            jam: Arc::clone(&self.jam),
            closed: Arc::clone(&closed),
            stuck: first.then(|| Arc::clone(&self.stuck)),
        });
        let closer = connection.closer;
        Ok(Connection {
            tx,
            rx: connection.rx,
            gauge: connection.gauge,
            closer: Closer::new(move || {
                closed.store(true, Ordering::Release);
                closer.close();
            }),
        })
    }

    fn set_rate(&self, cap: Option<Rate>) {
        self.link.set_rate(cap);
    }
}

/// Throttles at once, and never stops the guest.
#[derive(Debug, Default)]
struct Harsh(bool);

impl Policy for Harsh {
    fn decide(&mut self, _: &Observation) -> Decision {
        if std::mem::replace(&mut self.0, true) {
            return Decision::Continue;
        }
        Decision::Throttle(Share::permille(900))
    }

    fn downtime_limit(&self) -> Duration {
        Duration::ZERO
    }
}

/// A migration between two threads of this process, and what can be seen of it.
struct Seen {
    jam: Arc<AtomicBool>,
    stuck: Arc<AtomicUsize>,
    armed: Arc<AtomicBool>,
    throttle: Arc<Mutex<Share>>,
    status: Mutex<Option<SourceStatus>>,
    controls: Controls,
}

impl Seen {
    fn share(&self) -> Share {
        *self.throttle.lock().unwrap()
    }
}

fn migrate(
    settings: Settings,
    policy: Box<dyn Policy>,
    meanwhile: impl FnOnce(&Seen) + Send,
) -> (Result<Report, Failure>, Seen) {
    let server = TcpServer::bind("127.0.0.1", 0).unwrap();
    let link = TcpLink::resolve("127.0.0.1", server.local_addr().unwrap().port()).unwrap();
    link.set_rate(settings.bandwidth);
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
        link,
        jam: Arc::clone(&seen.jam),
        stuck: Arc::clone(&seen.stuck),
        connections: AtomicUsize::new(0),
    };
    let give_up = CancelToken::default();
    let result = thread::scope(|scope| {
        let target = scope.spawn(|| {
            let memory = Same::new();
            receive(ReceiveJob {
                listener: &server,
                pages: Arc::clone(&memory) as Arc<dyn WritePages>,
                content: memory,
                guest: &mut There::default(),
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
            right: RunRight::claim(),
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

fn assert_free(result: &Result<Report, Failure>, seen: &Seen, when: &str) {
    let Err(failure) = result else {
        panic!("{when}: it moved")
    };
    assert!(
        matches!(failure.error, MigrationError::Cancelled),
        "{when}: {failure}"
    );
    assert_eq!(failure.guest, GuestLocation::Source, "{when}");
    assert_eq!(seen.share(), Share::NONE, "{when}");
    assert!(!seen.armed.load(Ordering::Acquire), "{when}");
    let freed = seen.controls.cancel_token().freed_after();
    println!("measured: free {freed:?} after the request, {when}");
    assert!(freed.is_some_and(|time| time < PATIENCE), "{when}");
}

#[test]
fn a_guest_is_free_while_pages_flow() {
    let (result, seen) = migrate(Settings::default(), Box::<Harsh>::default(), |seen| {
        wait_until("throttled", || seen.share() > Share::NONE);
        seen.controls.cancel();
    });
    assert_free(&result, &seen, "while pages flow");
}

#[test]
fn a_guest_is_free_although_only_a_flag_was_set() {
    let (result, seen) = migrate(Settings::default(), Box::<Harsh>::default(), |seen| {
        wait_until("throttled", || seen.share() > Share::NONE);
        let flag = seen.controls.cancel_token().flag();
        flag.store(true, Ordering::Release);
    });
    assert_free(&result, &seen, "by a flag, once it was noticed");
}

#[test]
fn a_guest_is_free_although_the_coordinator_is_stuck() {
    let (result, seen) = migrate(Settings::default(), Box::<Harsh>::default(), |seen| {
        wait_until("throttled", || seen.share() > Share::NONE);
        seen.jam.store(true, Ordering::Release);
        wait_until("stuck in a control message", || {
            seen.stuck.load(Ordering::Acquire) > 0
        });
        seen.controls.cancel();
    });
    assert_free(&result, &seen, "while the coordinator was stuck");
}

#[test]
fn a_guest_is_free_behind_a_cap_of_a_byte_a_second() {
    let settings = Settings {
        bandwidth: Some(Rate(1 << 20)),
        ..Settings::default()
    };
    let (result, seen) = migrate(settings, Box::<Harsh>::default(), |seen| {
        wait_until("armed", || seen.armed.load(Ordering::Acquire));
        seen.controls
            .change(|settings| settings.bandwidth = Some(Rate(1)));
        // Long enough for everybody to wait for a turn that would never come.
        thread::sleep(Duration::from_millis(300));
        seen.controls.cancel();
    });
    assert_free(&result, &seen, "while all waited at a cap");
}

/// A guest that could never move under the limits it began with.
#[test]
fn limits_that_change_let_it_move() {
    let limits = Limits {
        downtime: Downtime::fixed(Duration::from_micros(1)),
        deadline: None,
        ..Limits::default()
    };
    let settings = Settings {
        limits,
        bandwidth: Some(Rate(8 << 20)),
    };
    for (name, change) in [
        (
            "a longer downtime",
            Limits {
                downtime: Downtime::fixed(PATIENCE),
                ..limits
            },
        ),
        (
            "force",
            Limits {
                deadline: Some(Duration::ZERO),
                at_deadline: AtDeadline::Force,
                ..limits
            },
        ),
    ] {
        let policy = Box::new(Steered::new(limits));
        let (result, seen) = migrate(settings, policy, |seen| {
            wait_until("a round", || {
                seen.status
                    .lock()
                    .unwrap()
                    .is_some_and(|status| status.round > 0)
            });
            seen.controls.change(|settings| {
                settings.limits = change;
                settings.bandwidth = None;
            });
        });
        let report = result.unwrap_or_else(|failure| panic!("{name}: {failure}"));
        assert_eq!(report.forced, name == "force");
        assert!(!seen.armed.load(Ordering::Acquire));
        assert_eq!(seen.controls.cancel_token().freed_after(), None);
    }
}
