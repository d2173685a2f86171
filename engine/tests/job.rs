//! Jobs over loopback TCP, as an embedder has them: events, limits, cancellation, dropping.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use pagelift_engine::codec::{Codec, CompressSetting};
use pagelift_engine::converge::PolicyKind;
use pagelift_engine::dirty::{DirtyMarker, ManualTracker};
use pagelift_engine::guest::{self, SourceGuest, TargetGuest};
use pagelift_engine::memory::{FileMemory, GuestMemory};
use pagelift_engine::migration::{GuestLocation, MigrationError, Phase, Report};
use pagelift_engine::pipeline::Received;
use pagelift_engine::transport::RateCapped;
use pagelift_engine::units::{PageCount, PageIndex, PageRange, Rate};
use pagelift_engine::{Ended, Event, GuestRam, Incoming, Job, Outgoing};
use pagelift_transports::Endpoint;
use rustix::event::{PollFd, PollFlags, poll};

const PAGES: u64 = 2048;

/// What happened to a guest, by its two halves.
#[derive(Debug, Default)]
struct Seen {
    paused: AtomicU32,
    resumed: AtomicU32,
    runs_there: AtomicBool,
    source_finished: Mutex<Option<GuestLocation>>,
    target_finished: Mutex<Option<GuestLocation>>,
}

#[derive(Debug)]
struct Here(Arc<Seen>);

impl SourceGuest for Here {
    fn pause(&mut self) -> guest::Result<()> {
        self.0.paused.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn save_devices(&mut self, out: &mut dyn Write) -> guest::Result<()> {
        Ok(out.write_all(&[7; 200_000])?)
    }

    fn relinquish(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn resume(&mut self) -> guest::Result<()> {
        self.0.resumed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn finish(&mut self, place: GuestLocation) {
        *self.0.source_finished.lock().unwrap() = Some(place);
    }
}

#[derive(Debug)]
struct There(Arc<Seen>);

impl TargetGuest for There {
    fn load_devices(&mut self, state: &mut dyn Read) -> guest::Result<()> {
        let mut bytes = Vec::new();
        state.read_to_end(&mut bytes)?;
        assert_eq!(bytes, [7; 200_000]);
        Ok(())
    }

    fn run(&mut self) -> guest::Result<()> {
        self.0.runs_there.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn finish(&mut self, place: GuestLocation) {
        *self.0.target_finished.lock().unwrap() = Some(place);
    }
}

fn memory() -> FileMemory {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(PageCount(PAGES).bytes().0).unwrap();
    FileMemory::whole(file).unwrap()
}

struct Pair {
    seen: Arc<Seen>,
    outgoing: Outgoing<Here>,
    target: Job<There, Received>,
    /// Marks pages as written by the guest.
    writes: DirtyMarker,
}

/// A source's side before it is set up.
struct Ends {
    seen: Arc<Seen>,
    link: Box<dyn RateCapped>,
    ram: GuestRam,
    target: Job<There, Received>,
    writes: DirtyMarker,
}

/// Both ends of a migration of pages that all hold something; the target waits already.
fn ends() -> Ends {
    let seen = Arc::new(Seen::default());
    let listener = "tcp://127.0.0.1:0".parse::<Endpoint>().unwrap();
    let there = There(Arc::clone(&seen));
    let incoming = Incoming::new(listener.listen().unwrap(), Arc::new(memory()), there);
    let link = incoming.address().parse::<Endpoint>().unwrap();
    let memory = memory();
    for page in 0..PAGES {
        // Not one word over and over, which would go as that word.
        let content: Vec<u8> = (0..4096_u64).map(|at| (at * 31 + page) as u8).collect();
        memory.write(PageIndex(page), &content).unwrap();
    }
    let tracker = ManualTracker::new(PageCount(PAGES));
    let writes = tracker.marker();
    Ends {
        seen,
        link: link.connect().unwrap(),
        ram: GuestRam::new(Arc::new(memory), Box::new(tracker)),
        target: incoming.start().unwrap(),
        writes,
    }
}

/// [`ends`], with a source that sends everything as it is.
fn pair() -> Pair {
    let ends = ends();
    let outgoing = Outgoing::new(ends.link, ends.ram, Here(Arc::clone(&ends.seen)))
        .channels(2)
        .compress(CompressSetting::Fixed(Codec::Raw));
    Pair {
        seen: ends.seen,
        outgoing,
        target: ends.target,
        writes: ends.writes,
    }
}

/// The lines of docs/embedding.md on limits, as they stand there.
#[test]
fn limits_are_set_before_a_move_and_changed_during_it() {
    let follow = |link, ram, guest| -> Result<_, Box<dyn std::error::Error>> {
        let outgoing = Outgoing::new(link, ram, guest)
            .downtime(Duration::from_millis(50))
            .deadline(Duration::from_secs(600))
            .bandwidth(Rate(125_000_000));
        let job = outgoing.start()?;
        job.change(|settings| settings.limits.downtime = Duration::from_millis(100).into());
        while let Some(event) = job.wait_event() {
            match event {
                Event::Phase(phase) => println!("{phase:?}"),
                Event::Throttled(share) => println!("{share:?} of its time taken"),
                _ => {}
            }
        }
        let ended = job.wait();
        Ok(ended)
    };
    let ends = ends();
    let ended = follow(ends.link, ends.ram, Here(Arc::clone(&ends.seen))).unwrap();
    assert!(ended.result.is_ok(), "{:?}", ended.result);
    assert!(ends.target.wait().result.is_ok());
    assert!(ends.seen.runs_there.load(Ordering::Relaxed));
}

fn phases(job: &Job<Here, Report>) -> Vec<Phase> {
    let events = std::iter::from_fn(|| job.wait_event());
    let phase = |event| match event {
        Event::Phase(phase) => Some(phase),
        _ => None,
    };
    events.filter_map(phase).collect()
}

#[test]
fn a_guest_moves_and_both_halves_are_given_back() {
    let pair = pair();
    assert!(pair.outgoing.memory_budget().0 > 0);
    let job = pair.outgoing.verify(true).start().unwrap();
    let mut fds = [PollFd::from_borrowed_fd(job.as_fd(), PollFlags::IN)];
    assert_eq!(poll(&mut fds, None).unwrap(), 1, "an event comes");
    let phases = phases(&job);
    assert!(phases.contains(&Phase::Precopy { round: 1 }), "{phases:?}");
    assert!(job.has_ended() && job.status().is_some());
    let Ended { result, guest } = job.wait();
    let report = result.unwrap();
    assert!(report.verified);
    assert_eq!(report.pages.sent(), PageCount(PAGES));
    assert_eq!(guest.0.paused.load(Ordering::Relaxed), 1);
    pair.target.wait().result.unwrap();
    let seen = &pair.seen;
    assert!(seen.runs_there.load(Ordering::Relaxed));
    assert_eq!(seen.resumed.load(Ordering::Relaxed), 0);
    for finished in [&seen.source_finished, &seen.target_finished] {
        assert_eq!(*finished.lock().unwrap(), Some(GuestLocation::Target));
    }
}

/// A guest that writes all its memory all the time, over a link that cannot carry that; `act` is
/// given the job once the guest has been in its third round.
fn busy<T>(act: impl FnOnce(Job<Here, Report>) -> T) -> (T, Pair) {
    let mut pair = pair();
    let outgoing = pair
        .outgoing
        .bandwidth(Rate(20_000_000))
        .policy(PolicyKind::None)
        .downtime(Duration::from_millis(100));
    let (stop, writes) = (Arc::new(AtomicBool::new(false)), pair.writes.clone());
    let stopped = Arc::clone(&stop);
    let writer = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            writes.mark(PageRange::new(0, PAGES));
            thread::sleep(Duration::from_millis(1));
        }
    });
    let job = outgoing.start().unwrap();
    loop {
        match job.wait_event() {
            Some(Event::Phase(Phase::Precopy { round })) if round >= 3 => break,
            Some(Event::Ended) | None => panic!("ended early: {:?}", job.wait().result),
            _ => {}
        }
    }
    let done = act(job);
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    // It was given away; the target is what the test looks at.
    pair.outgoing = self::pair().outgoing;
    (done, pair)
}

#[test]
fn limits_can_be_changed_while_it_runs() {
    let (ended, pair) = busy(|job| {
        job.change(|settings| {
            settings.bandwidth = None;
            settings.limits.downtime = Duration::from_secs(60).into();
        });
        job.wait()
    });
    ended.result.unwrap();
    pair.target.wait().result.unwrap();
}

#[test]
fn a_job_that_is_cancelled_leaves_the_guest_on_the_source() {
    let (ended, pair) = busy(|job| {
        job.cancel();
        job.wait()
    });
    let failure = ended.result.unwrap_err();
    assert!(
        matches!(failure.error, MigrationError::Cancelled),
        "{failure}"
    );
    assert_eq!(failure.guest, GuestLocation::Source);
    assert_eq!(pair.seen.paused.load(Ordering::Relaxed), 0);
    assert!(pair.target.wait().result.is_err());
    assert!(!pair.seen.runs_there.load(Ordering::Relaxed));
}

#[test]
fn a_job_that_is_dropped_is_cancelled_and_waited_for() {
    let (finished, pair) = busy(|job| {
        let controls = job.controls().clone();
        drop(job);
        controls.cancel_token().is_cancelled()
    });
    assert!(finished);
    let place = *pair.seen.source_finished.lock().unwrap();
    assert_eq!(place, Some(GuestLocation::Source));
    drop(pair.target);
    let place = *pair.seen.target_finished.lock().unwrap();
    assert_eq!(place, Some(GuestLocation::Source));
}
