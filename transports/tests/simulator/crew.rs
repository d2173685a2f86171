//! Steps everything beside the two coordinators: workers, guest, faults.
//!
//! What a coordinator or a worker calls (memory, tracker, guest) calls back here, and others do
//! a few steps meanwhile, as their threads would. A worker that is in the middle of its own step
//! is not stepped again.

mod struck;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pagelift_engine::migration::Failure;
use pagelift_engine::pipeline::{
    Acceptor, FingerprintWorker, SourceSession, SourceWorker, Step, TargetWorker,
};
use pagelift_engine::transport::Listener;
use pagelift_engine::units::Instant;
use pagelift_engine::wire::FrameType;
use pagelift_transports::sim::{ConnectionId, Direction, SimNetwork, SimRng};

use super::faults::Faults;
use super::knobs::Knobs;
use super::memory::Side;
use super::strangers::Strangers;
use super::tap::TapListener;
use super::target::TargetSide;
use super::truth::Truth;
use super::watcher::Watcher;
use super::writer::Writer;

thread_local! {
    static CREW: RefCell<Option<Rc<Crew>>> = const { RefCell::new(None) };
}

/// A step is under way; the others may do something meanwhile.
pub fn meanwhile() {
    if let Some(crew) = current() {
        crew.meanwhile();
    }
}

/// A step takes `time`.
pub fn pass(time: Duration) {
    if let Some(crew) = current() {
        crew.pass(time);
    }
}

/// The source's process stands still for `time`; everybody else goes on.
pub fn freeze_source(time: Duration) {
    if let Some(crew) = current() {
        crew.freeze_source(time);
    }
}

/// Page `page` is being read on the source: the guest may write it.
pub fn write_meanwhile(page: u64) {
    if let Some(crew) = current() {
        crew.write_meanwhile(page);
    }
}

/// Pages of the frame that was read last are being placed.
pub fn check_round() {
    if let Some(crew) = current()
        && let Some(connection) = crew.stepping.borrow().last()
    {
        crew.watcher.placing(*connection);
    }
}

fn current() -> Option<Rc<Crew>> {
    CREW.with(|crew| crew.borrow().clone())
}

pub struct Crew {
    pub truth: Arc<Truth>,
    pub network: SimNetwork,
    pub watcher: Arc<Watcher>,
    pub listener: TapListener,
    pub acceptor: Arc<Acceptor>,
    pub faults: RefCell<Faults>,
    pub knobs: RefCell<Knobs>,
    pub source_writer: Arc<Mutex<Writer>>,
    pub target_writer: Arc<Mutex<Writer>>,
    pub rng: RefCell<SimRng>,
    pub target: TargetSide,
    pub strangers: RefCell<Strangers>,
    /// Which programs have ended by themselves, source first.
    ended: Cell<[bool; 2]>,
    slots: RefCell<Vec<Slot>>,
    accepted: Cell<ConnectionId>,
    nested: Cell<bool>,
    /// The source's process stands still in the middle of a step.
    frozen: Cell<bool>,
    /// Until when the program of each side stands still, source first.
    hang_until: Cell<[Instant; 2]>,
    /// A program stood still between two steps.
    pub hung: Cell<bool>,
    /// The program that was killed.
    pub killed: Cell<Option<Side>>,
    /// Connections whose frames are being placed, innermost last.
    stepping: RefCell<Vec<ConnectionId>>,
    pub steps: Cell<u64>,
}

struct Slot {
    connection: ConnectionId,
    /// Not there while it is being stepped.
    worker: Option<Worker>,
}

enum Worker {
    Source(SourceWorker),
    Target(TargetWorker),
    FingerprintIndex(FingerprintWorker),
}

pub struct CrewParts {
    pub truth: Arc<Truth>,
    pub network: SimNetwork,
    pub watcher: Arc<Watcher>,
    pub listener: TapListener,
    pub acceptor: Arc<Acceptor>,
    pub faults: Faults,
    pub knobs: Knobs,
    pub source_writer: Arc<Mutex<Writer>>,
    pub target_writer: Arc<Mutex<Writer>>,
    pub rng: SimRng,
    pub target: TargetSide,
    pub strangers: Strangers,
}

impl Crew {
    pub fn new(parts: CrewParts) -> Rc<Self> {
        Rc::new(Self {
            truth: parts.truth,
            network: parts.network,
            watcher: parts.watcher,
            listener: parts.listener,
            acceptor: parts.acceptor,
            faults: RefCell::new(parts.faults),
            knobs: RefCell::new(parts.knobs),
            source_writer: parts.source_writer,
            target_writer: parts.target_writer,
            rng: RefCell::new(parts.rng),
            target: parts.target,
            strangers: RefCell::new(parts.strangers),
            ended: Cell::default(),
            slots: RefCell::default(),
            accepted: Cell::new(0),
            nested: Cell::new(false),
            frozen: Cell::new(false),
            hang_until: Cell::default(),
            hung: Cell::new(false),
            killed: Cell::new(None),
            stepping: RefCell::default(),
            steps: Cell::new(0),
        })
    }

    /// From now on this crew works while a step is under way on this thread.
    pub fn sign_on(self: &Rc<Self>) {
        CREW.with(|crew| *crew.borrow_mut() = Some(Rc::clone(self)));
    }

    pub fn sign_off() {
        CREW.with(|crew| *crew.borrow_mut() = None);
    }

    pub fn add_source(&self, worker: SourceWorker) {
        // It was made for the connection that was dialled last.
        self.slots.borrow_mut().push(Slot {
            connection: self.network.connections().saturating_sub(1),
            worker: Some(Worker::Source(worker)),
        });
    }

    /// The fingerprints of base pages: a worker without a connection of its own.
    pub fn add_fingerprints(&self, worker: FingerprintWorker) {
        self.slots.borrow_mut().push(Slot {
            connection: 0,
            worker: Some(Worker::FingerprintIndex(worker)),
        });
    }

    /// Steps the source's coordinator.
    pub fn step_source(&self, session: &mut SourceSession<'_>) -> Result<Step, Failure> {
        session.step(&mut |worker| self.add_source(worker))
    }

    /// Steps the target's coordinator, unless it has ended.
    pub fn step_target(&self) -> Option<Step> {
        let courage = || self.frozen.get() && self.rng.borrow_mut().one_in(2);
        self.target.step(&self.truth, courage)
    }

    /// The guest and the faults catch up with the time.
    pub fn tick(&self) {
        let now = self.truth.now();
        let news = self.watcher.take_news();
        let mut faults = self.faults.borrow_mut();
        faults.hear(now, &news);
        faults.strike(&self.truth, &self.network);
        let deeds = faults.take_deeds();
        drop(faults);
        if self.truth.let_go_if_due() {
            lock(&self.source_writer).sleep_until(now);
        }
        for deed in deeds {
            self.begin_anew(|truth| truth.person_acts(deed, self.gone()));
        }
        let greeted = self.watcher.has_said(Side::Target, FrameType::Accept);
        self.strangers.borrow_mut().come(&self.truth, greeted);
        self.acceptor.close_overdue();
        self.knobs.borrow_mut().turn(&self.truth);
        let is_stopped = self.truth.is_stopped_by_hand();
        for (runs, writer) in [
            (self.truth.source_runs(), &self.source_writer),
            (self.truth.target_runs(), &self.target_writer),
        ] {
            match is_stopped {
                true => lock(writer).sleep_until(now),
                false if runs => lock(writer).run_until(now),
                false => {}
            }
        }
    }

    /// Takes in connections that have arrived.
    pub fn accept(&self) -> bool {
        let mut any = false;
        if self.killed.get() == Some(Side::Target) || self.hangs_until(Side::Target).is_some() {
            return any;
        }
        while let Ok(Some(connection)) = self.listener.accept(Duration::ZERO) {
            let number = self.accepted.replace(self.accepted.get() + 1);
            any = true;
            if let Some(worker) = self.acceptor.take_in(connection) {
                self.slots.borrow_mut().push(Slot {
                    connection: number,
                    worker: Some(Worker::Target(worker)),
                });
            }
        }
        any
    }

    pub fn workers(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Steps worker number `at` once; whether it did anything.
    pub fn step(&self, at: usize) -> bool {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(at) else {
            return false;
        };
        let connection = slot.connection;
        if self.frozen.get() && matches!(slot.worker, Some(Worker::Source(_))) {
            return false;
        }
        let side = match slot.worker {
            Some(Worker::Source(_)) => Side::Source,
            _ => Side::Target,
        };
        if self.hangs_until(side).is_some() {
            return false;
        }
        let Some(mut worker) = slot.worker.take() else {
            return false;
        };
        drop(slots);
        let step = match &mut worker {
            Worker::Source(SourceWorker::Data(_))
                if !self.network.has_room(connection, Direction::ToTarget) =>
            {
                Step::Quiet
            }
            Worker::Source(worker) => worker.step(),
            // It writes to the control connection, which came first.
            Worker::FingerprintIndex(_) if !self.network.has_room(0, Direction::ToSource) => {
                Step::Quiet
            }
            Worker::FingerprintIndex(worker) => worker.step(),
            Worker::Target(worker) => {
                self.stepping.borrow_mut().push(connection);
                let step = worker.step();
                self.stepping.borrow_mut().pop();
                step
            }
        };
        if step != Step::Quiet {
            self.steps.set(self.steps.get() + 1);
        }
        let mut slots = self.slots.borrow_mut();
        match step {
            Step::Done => {
                // Its place is kept as long as others may be in the middle of a step.
                slots[at].worker = None;
                if !self.nested.get() {
                    slots.remove(at);
                }
                drop(slots);
                drop(worker);
                true
            }
            step => {
                slots[at].worker = Some(worker);
                step == Step::Worked
            }
        }
    }

    /// Forgets workers that came to their end in the middle of another's step.
    pub fn sweep(&self) {
        self.slots.borrow_mut().retain(|slot| slot.worker.is_some());
    }

    /// When something happens next if nobody does anything.
    pub fn next_event(&self) -> Option<Instant> {
        let faults = self.faults.borrow().next_event();
        let knobs = self.knobs.borrow().next_event();
        let lease = self.truth.lease_ends();
        let strangers = self.strangers.borrow().next_event(self.truth.now());
        [self.network.next_event(), faults, knobs, lease, strangers]
            .into_iter()
            .flatten()
            .min()
    }

    fn meanwhile(&self) {
        if self.nested.get() || !self.rng.borrow_mut().one_in(6) {
            return;
        }
        let time = self.rng.borrow_mut().time(Duration::from_micros(200));
        self.truth.clock().advance(time);
        self.others();
    }

    fn pass(&self, time: Duration) {
        if self.nested.get() {
            return;
        }
        let until = self.truth.now().after(time);
        while self.truth.now() < until {
            let next = self.truth.now().after(Duration::from_millis(500));
            let next = self.next_event().map_or(next, |event| event.min(next));
            self.truth.clock().advance_to(next.min(until));
            self.others();
        }
    }

    fn freeze_source(&self, time: Duration) {
        let until = self.truth.now().after(time);
        self.truth
            .note(|| format!("the source stands still for {time:?}"));
        self.nested.set(true);
        self.frozen.set(true);
        while self.truth.now() < until {
            self.tick();
            let mut wake = until;
            let mut worked = self.accept();
            match self.step_target() {
                Some(Step::Wait(at)) => wake = wake.min(at),
                Some(step) => worked |= step != Step::Quiet,
                None => {}
            }
            for at in 0..self.workers() {
                worked |= self.step(at);
            }
            let now = self.truth.now();
            let next = match worked {
                true => now.after(Duration::from_micros(10)),
                false => self.next_event().map_or(wake, |event| event.min(wake)),
            };
            let next = next.max(now.after(Duration::from_nanos(1)));
            self.truth.clock().advance_to(next.min(until));
        }
        self.frozen.set(false);
        self.nested.set(false);
        self.truth.note(|| "the source goes on".into());
        // Any of its threads may be the first.
        let turns = self.rng.borrow_mut().below(8);
        (0..turns).for_each(|_| self.others());
    }

    /// All others do a few steps.
    fn others(&self) {
        self.nested.set(true);
        self.tick();
        self.accept();
        for _ in 0..self.workers() * 2 {
            let at = self.rng.borrow_mut().below(self.workers() as u64);
            self.step(usize::try_from(at).unwrap_or(0));
        }
        self.nested.set(false);
    }

    fn write_meanwhile(&self, page: u64) {
        if self.truth.source_runs()
            && !self.truth.is_stopped_by_hand()
            && self.rng.borrow_mut().one_in(24)
        {
            let mut writer = lock(&self.source_writer);
            if writer.is_active() {
                writer.write(page);
            }
        }
    }
}

fn lock(writer: &Mutex<Writer>) -> std::sync::MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}
