//! One run: two sides, a network and a guest, stepped until both sides are done.

mod machines;

use std::sync::{Arc, Mutex};

use pagelift_engine::converge::Limits;
use pagelift_engine::dirty::ManualTracker;
use pagelift_engine::memory::{PageBitmap, Reach, ReadPages};
use pagelift_engine::migration::{Failure, Ownership, Report, Source};
use pagelift_engine::pipeline::{
    Clock, Controls, FingerprintWorker, Packing, Settings, SourceParts, SourceSession,
    TargetSession,
};
use pagelift_engine::units::{Instant, PageCount};
use pagelift_transports::sim::{SimClock, SimNetwork, SimRng};

use self::machines::deltas;
use super::agents::SimJournal;
use super::crew::{Crew, CrewParts};
use super::faults::Faults;
use super::forger::Forger;
use super::guest::SourceHalf;
use super::knobs::Knobs;
use super::memory::{Side, SimMemory};
use super::plan::{Plan, PolicyPlan};
use super::stepping;
use super::strangers::Strangers;
use super::tap::{TapLink, TapListener};
use super::target::TargetSide;
use super::target_half::{TargetHalf, TargetHandle};
use super::tracker::{Clears, SimTracker};
use super::truth::Truth;
use super::watcher::Watcher;
use super::writer::Writer;

/// What the two sides and the network were at the end of an attempt.
pub struct Attempt {
    pub plan: Plan,
    pub source: Option<Result<Report, Failure>>,
    /// Whether the source compared the digests.
    pub target: Option<Result<bool, Failure>>,
    pub watcher: Arc<Watcher>,
    pub source_ended: Instant,
    /// Which program was killed.
    pub killed: Option<Side>,
    /// A program stood still for a while.
    pub hung: bool,
    /// The target was told to end because its source was gone.
    pub target_told: bool,
    /// Somebody cancelled, on either side.
    pub cancelled: bool,
    pub network_failed: bool,
    /// Frames were not as they were sent.
    pub forged: bool,
    /// What the source knows to be delivered may not be.
    pub misled: bool,
    pub strangers_came: bool,
    pub well_since: Instant,
    pub tracker_armed: bool,
    /// Pages that differ between the two memories.
    pub differ: PageBitmap,
    /// Pages that the tracker knows to be dirty.
    pub marked: PageBitmap,
    pub finished: u32,
    pub abandoned: bool,
    /// The source's guest was throttled at some time.
    pub throttled: bool,
    /// It was stopped by force.
    pub forced: bool,
}

/// A guest on a source, to be moved.
pub struct World {
    pub truth: Arc<Truth>,
    clock: SimClock,
    rng: SimRng,
    source_memory: Arc<SimMemory>,
    target_memory: Arc<SimMemory>,
    tracker: SimTracker,
    source_writer: Arc<Mutex<Writer>>,
    target_writer: Arc<Mutex<Writer>>,
    /// What the source has said in the attempt before, by connection.
    said: Vec<Vec<u8>>,
}

impl World {
    pub fn new(plan: &Plan, keep_events: bool) -> Self {
        let clock = SimClock::default();
        let mut rng = SimRng::new(!plan.seed);
        let truth = Arc::new(Truth::new(clock.clone(), keep_events));
        let memory = |side| Arc::new(SimMemory::new(plan.pages, side, reach(plan.seed), &truth));
        let (source_memory, target_memory) = (memory(Side::Source), memory(Side::Target));
        let tracker = ManualTracker::new(PageCount(plan.pages));
        let mut writer = |memory, marker| {
            let rng = rng.fork();
            Writer::new(
                memory,
                marker,
                rng,
                plan.pattern,
                plan.writes_per_s,
                clock.now(),
            )
        };
        let mut source_writer = writer(&source_memory, Some(tracker.marker()));
        source_writer.fill(plan.filled);
        let mut target_writer = writer(&target_memory, None);
        // What some other guest left there.
        target_writer.fill(0.2);
        Self {
            tracker: SimTracker::new(tracker, PageCount(plan.pages), clears(plan.seed), &truth),
            truth,
            clock,
            rng,
            source_memory,
            target_memory,
            source_writer: Arc::new(Mutex::new(source_writer)),
            target_writer: Arc::new(Mutex::new(target_writer)),
            said: Vec::new(),
        }
    }

    /// Tries to move the guest as `plan` says.
    pub fn attempt(&mut self, plan: &Plan) -> Attempt {
        self.truth.begin(plan);
        let lossy = plan.lose_marks.map(|one_in| (self.rng.fork(), one_in));
        self.tracker.lose_marks(lossy);
        self.target_memory.damage_in(plan.damage_placed);
        let now = self.clock.now();
        let mut network = SimNetwork::new(plan.network, self.clock.clone(), self.rng.fork());
        if !plan.authenticated {
            network = network.without_authentication();
        }
        let watcher = Arc::new(Watcher::new(&self.truth));
        let faults = Faults::new(&plan.faults, self.rng.fork(), now);
        let settings = Settings {
            limits: match plan.policy {
                PolicyPlan::Limited(limits) => limits,
                _ => Limits::default(),
            },
            bandwidth: None,
        };
        let controls = Controls::new(settings, faults.cancel_source.clone());
        let knobs = Knobs::new(&plan.knobs, controls.clone(), now);
        // Numbers of their own, so that all else is as it would be without.
        let mut others = SimRng::new(plan.seed.rotate_left(32) ^ now.0);
        let forger = Forger::new(&self.truth, &plan.forgeries, others.fork());
        let link = TapLink {
            link: network.link(),
            network: network.clone(),
            watcher: Arc::clone(&watcher),
            forger: Arc::clone(&forger),
        };

        let state: Vec<u8> = (0..plan.state_bytes)
            .map(|i| (i ^ (i >> 8)) as u8)
            .collect();
        let target_half = Arc::new(Mutex::new(TargetHalf {
            truth: Arc::clone(&self.truth),
            here: Arc::clone(&self.target_memory),
            there: Arc::clone(&self.source_memory),
            writer: Arc::clone(&self.target_writer),
            expected: state.clone(),
            arrived: Vec::new(),
            complete: false,
            load_calls: plan.load_calls,
            pieces: plan.state_pieces,
            piece_takes: plan.piece_takes,
            busy_until: now,
            channel: None,
            abandoned: false,
            sabotage: plan.sabotage,
            verify: plan.verify,
            one_sided: plan.network.one_sided,
            forger: Arc::clone(&forger),
        }));
        // Some bytes a run, so that the crew can step the target on the source's behalf.
        let handle = Box::leak(Box::new(TargetHandle {
            half: Arc::downgrade(&target_half),
            journal: self.journal(Side::Target),
        }));
        let mut source_half = SourceHalf {
            truth: Arc::clone(&self.truth),
            writer: Arc::clone(&self.source_writer),
            state,
            stop_takes: plan.stop_takes,
            freeze: plan.freeze,
            channel: None,
            finished: 0,
            paused_at: None,
            throttled: false,
            sabotage: plan.sabotage,
            journal: self.journal(Side::Source),
        };
        let source = self.source_machine(plan, now);
        let strangers = Strangers::new(
            &plan.strangers,
            now,
            network.clone(),
            source.look(Source::session),
            std::mem::take(&mut self.said),
            others,
        );
        let base_pages = self.base_pages(plan);
        let target = self.target_machine(plan, &base_pages, now);
        let fingerprints = FingerprintWorker::new(Arc::clone(&target), Arc::clone(&base_pages));
        let target_session = TargetSession::new(
            Arc::clone(&target),
            self.target_memory.clone(),
            Arc::clone(&base_pages),
            handle,
            faults.cancel_target.clone(),
            1,
        )
        .expect("this guest can be taken in");
        let parts = SourceParts {
            link: &link,
            memory: self.source_memory.clone(),
            dirty: &mut self.tracker,
            guest: &mut source_half,
            ownership: Ownership::claim(),
            controls,
            digest_threads: 1,
            packing: Packing {
                compress: plan.compress,
                deltas: deltas(plan, self.source_memory.layout().pages()),
                cpu: plan.cpu,
                channels: plan.channels,
                dedup: plan.dedup,
            },
        };
        let mut source_session = SourceSession::new(Arc::clone(&source), parts);
        let crew = Crew::new(CrewParts {
            truth: Arc::clone(&self.truth),
            network: network.clone(),
            watcher: Arc::clone(&watcher),
            listener: TapListener {
                listener: network.listener(),
                watcher: Arc::clone(&watcher),
                forger: Arc::clone(&forger),
                accepted: Mutex::new(0),
            },
            acceptor: Arc::clone(target_session.acceptor()),
            faults,
            knobs,
            source_writer: Arc::clone(&self.source_writer),
            target_writer: Arc::clone(&self.target_writer),
            rng: self.rng.fork(),
            target: TargetSide::new(target_session, target),
            strangers,
        });
        crew.add_fingerprints(fingerprints);
        crew.sign_on();
        let ended = stepping::run(&crew, &source, &mut source_session);
        Crew::sign_off();
        let forced = matches!(&ended.source, Some(Ok(report)) if report.forced);
        drop(source_session);

        self.source_writer.lock().expect("no panic").mark();
        let tracker_armed = self.tracker.is_armed();
        let mut marked = PageBitmap::new(PageCount(plan.pages));
        self.tracker.marks(&mut marked);
        self.said = watcher.take_recorded();
        let faults = crew.faults.borrow();
        Attempt {
            plan: plan.clone(),
            source: ended.source,
            target: ended.target,
            watcher,
            source_ended: ended.source_ended,
            killed: crew.killed.get(),
            hung: crew.hung.get(),
            target_told: ended.target_told,
            cancelled: faults.cancel_source.is_cancelled() || faults.cancel_target.is_cancelled(),
            network_failed: faults.network_failed() || forger.has_struck(),
            forged: forger.has_struck(),
            misled: forger.was_believed(),
            strangers_came: crew.strangers.borrow().have_come(),
            well_since: faults.well_since(),
            tracker_armed,
            differ: self.source_memory.differences(&self.target_memory),
            marked,
            finished: source_half.finished,
            abandoned: target_half.lock().expect("no panic").abandoned,
            throttled: source_half.throttled,
            forced,
        }
    }

    /// The journal of the agent of that side, if there is one.
    fn journal(&self, side: Side) -> Option<SimJournal> {
        let truth = Arc::clone(&self.truth);
        self.truth
            .has_agents()
            .then_some(SimJournal { truth, side })
    }
}

/// In a third of the seeds whether the two sides have one file cannot be told from its numbers.
fn reach(seed: u64) -> Reach {
    match seed / 5 % 3 {
        0 => Reach::Wider,
        _ => Reach::Kernel,
    }
}

/// When the tracker's marks are cleared: half of the seeds each.
fn clears(seed: u64) -> Clears {
    match seed / 12 % 2 {
        0 => Clears::Harvested,
        _ => Clears::BeforeRead,
    }
}
