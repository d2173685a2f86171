//! Both machines, a client and the hosts in one small world, with every kind of fault, from a seed.
//!
//! Holds always: the guest does not run on both sides. Holds at the end, when all faults are over and the
//! daemons have talked: exactly one side has the guest.

use std::collections::VecDeque;

use super::*;

/// The guest on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guest {
    Absent,
    Paused,
    Runs,
}

/// A migration of a guest that ran on the source.
#[derive(Debug)]
pub(super) struct World {
    pub(super) source: Source,
    pub(super) target: Target,
    pub(super) source_guest: Guest,
    pub(super) target_guest: Guest,
    /// Whether the source's QEMU has sent everything.
    sent: bool,
    incoming: Incoming,
    source_record: Option<SourceRecord>,
    target_record: Option<TargetRecord>,
    source_todo: VecDeque<SourceAction>,
    target_todo: VecDeque<TargetAction>,
    /// Whether the daemons reach each other.
    pub(super) linked: bool,
    /// Whether processors start on the target.
    pub(super) starts: bool,
    /// Perform's cookie: the source's word that it has sent all.
    word: bool,
    pub(super) said_held: bool,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            source: Source::Idle,
            target: Target::Empty,
            source_guest: Guest::Runs,
            target_guest: Guest::Absent,
            sent: false,
            incoming: Incoming::Nothing,
            source_record: None,
            target_record: None,
            source_todo: VecDeque::new(),
            target_todo: VecDeque::new(),
            linked: true,
            starts: true,
            word: false,
            said_held: false,
        }
    }

    /// A call that binds the guest anew has to wait for what is still to be done.
    fn source_is_at_rest(&mut self) {
        while !self.source_todo.is_empty() {
            self.act(true);
        }
    }

    pub(super) fn on_source<T>(&mut self, call: impl FnOnce(&mut Source) -> T) -> T {
        let answer = call(&mut self.source);
        if let Some(record) = self.source.record() {
            self.source_record = Some(record);
        }
        answer
    }

    pub(super) fn source_does(&mut self, call: impl FnOnce(&mut Source) -> Vec<SourceAction>) {
        let actions = self.on_source(call);
        self.source_todo.extend(actions);
    }

    fn on_target<T>(&mut self, call: impl FnOnce(&mut Target) -> T) -> T {
        let answer = call(&mut self.target);
        if let Some(record) = self.target.record() {
            self.target_record = Some(record);
        }
        answer
    }

    pub(super) fn target_does(&mut self, call: impl FnOnce(&mut Target) -> Vec<TargetAction>) {
        let actions = self.on_target(call);
        self.target_todo.extend(actions);
    }

    pub(super) fn prepare(&mut self, client: Client) -> Result<(), Refusal> {
        while !self.target_todo.is_empty() {
            self.act(false);
        }
        self.on_target(|target| target.prepare(client))?;
        (self.target_guest, self.incoming) = (Guest::Paused, Incoming::Nothing);
        // The word of an earlier migration has another number.
        self.word = false;
        Ok(())
    }

    pub(super) fn begin(&mut self, mode: Mode) -> Result<(), Refusal> {
        self.source_is_at_rest();
        if self.source_guest == Guest::Absent {
            return Err(Refusal::NoGuest);
        }
        self.on_source(|source| source.begin(mode, false))
    }

    pub(super) fn perform(&mut self, mode: Mode) -> Result<(), Refusal> {
        self.source_is_at_rest();
        self.on_source(|source| source.perform(mode, false))?;
        (self.sent, self.word) = (false, false);
        Ok(())
    }

    /// QEMU has ended sending; `arrived` says whether all of it is there, whatever the source knows.
    pub(super) fn qemu_ends(&mut self, sent: bool, arrived: bool) {
        if !matches!(self.source, Source::Performing { .. }) {
            return;
        }
        let waits = matches!(self.target, Target::Prepared { .. });
        let sent = sent && waits;
        if waits && self.incoming == Incoming::Nothing {
            self.incoming = if arrived || sent {
                Incoming::Some
            } else {
                Incoming::Failed
            };
        }
        self.sent = sent;
        self.source_guest = Guest::Paused;
        self.source_does(|source| source.performed(sent));
        self.word = matches!(self.source, Source::Performed { .. });
    }

    pub(super) fn finish(&mut self, cancelled: bool) -> Result<(), Refusal> {
        let incoming = if self.word || cancelled {
            self.incoming
        } else {
            Incoming::Nothing
        };
        let actions = self.on_target(|target| target.finish(cancelled, incoming))?;
        self.target_todo.extend(actions);
        Ok(())
    }

    pub(super) fn confirm(&mut self, cancelled: bool) -> Result<(), Refusal> {
        let actions = self.on_source(|source| source.confirm(cancelled))?;
        self.source_todo.extend(actions);
        Ok(())
    }

    /// One action of one side is carried out.
    fn act(&mut self, source: bool) {
        if source {
            match self.source_todo.pop_front() {
                Some(SourceAction::Cancel) => self.qemu_ends(false, false),
                Some(SourceAction::Resume) if self.source_guest == Guest::Absent => {}
                Some(SourceAction::Resume) => self.source_guest = Guest::Runs,
                Some(SourceAction::Destroy) => self.source_guest = Guest::Absent,
                Some(SourceAction::Ask) => self.ask(),
                Some(SourceAction::SayHeld) => self.said_held = true,
                Some(SourceAction::EndJob) => self.source_record = None,
                None => {}
            }
        } else {
            match self.target_todo.pop_front() {
                Some(TargetAction::Start) => {
                    let started = self.starts && self.target_guest != Guest::Absent;
                    if started {
                        self.target_guest = Guest::Runs;
                    }
                    self.target_does(|target| target.started(started));
                }
                Some(TargetAction::Destroy) => {
                    (self.target_guest, self.target_record) = (Guest::Absent, None);
                }
                None => {}
            }
        }
        self.check();
    }

    /// The question goes over, its actions are done, and the answer comes back, if the daemons can talk.
    fn ask(&mut self) {
        if !self.linked {
            return self.source_does(Source::unanswered);
        }
        let (answer, actions) = self.on_target(Target::asked);
        self.target_todo.extend(actions);
        while !self.target_todo.is_empty() {
            self.act(false);
        }
        match answer {
            Some(answer) => self.source_does(|source| source.answered(answer)),
            None => self.source_does(Source::unanswered),
        }
    }

    pub(super) fn source_restarts(&mut self) {
        self.source_todo.clear();
        self.source = Source::Idle;
        if let Some(record) = self.source_record {
            let (source, actions) = Source::restored(record, self.sent);
            self.source = source;
            self.source_todo.extend(actions);
            if record == SourceRecord::Performing && !self.sent {
                self.source_guest = Guest::Paused;
            }
        }
    }

    pub(super) fn target_restarts(&mut self) {
        self.target_todo.clear();
        self.target = Target::Empty;
        if let Some(record) = self.target_record {
            let (target, actions) = Target::restored(record);
            self.target = target;
            self.target_todo.extend(actions);
        }
    }

    /// Everything that is to be done is done; with a link, held guests are asked for again.
    pub(super) fn settle(&mut self) {
        for _ in 0..20 {
            while !self.source_todo.is_empty() || !self.target_todo.is_empty() {
                self.act(true);
                self.act(false);
            }
            if self.linked {
                let again = self.source.ask_again();
                self.source_todo.extend(again);
            }
        }
    }

    fn check(&self) {
        assert!(
            (self.source_guest, self.target_guest) != (Guest::Runs, Guest::Runs),
            "two guests run: {self:?}"
        );
    }
}

/// A stream of numbers from a seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A client that goes from phase to phase, and now and then does something else.
fn run(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut world = World::new();
    let client = Client(1);
    let mode = if random.once_in(3) {
        Mode::PeerToPeer
    } else {
        Mode::Managed(client)
    };
    let mut next = 0;
    for _ in 0..40 {
        let step = if random.once_in(6) {
            random.below(7)
        } else {
            next
        };
        let done = match step {
            0 => world.begin(mode).is_ok(),
            1 => world.prepare(client).is_ok(),
            2 => world.perform(mode).is_ok(),
            3 => {
                let sent = !random.once_in(4);
                world.qemu_ends(sent, sent || random.once_in(2));
                true
            }
            4 => world.finish(!world.word || random.once_in(8)).is_ok(),
            5 => {
                // The client believes what it was told; an answer may have been lost.
                let cancelled = world.target != Target::Running || random.once_in(4);
                let _ = world.confirm(cancelled);
                true
            }
            _ => {
                let _ = world.finish(false);
                true
            }
        };
        next = if done { next + 1 } else { next };
        for _ in 0..random.below(4) {
            let source = random.once_in(2);
            world.act(source);
        }
        match random.below(40) {
            0 => world.source_restarts(),
            1 => world.target_restarts(),
            2 => world.source_does(|source| source.client_lost(client)),
            3 => world.target_does(|target| target.client_lost(client)),
            4 => world.linked = !world.linked,
            5 => world.starts = !world.starts,
            6 => world.source_does(|source| source.abort().unwrap_or_default()),
            _ => {}
        }
        world.check();
    }
    // Every fault is over: a client that still lives gives up, the daemons talk.
    (world.linked, world.starts) = (true, true);
    world.settle();
    world.source_does(|source| source.client_lost(client));
    if mode == Mode::PeerToPeer {
        world.source_restarts();
    }
    world.target_does(|target| target.client_lost(client));
    world.settle();
    let has = [world.source_guest, world.target_guest].map(|guest| guest != Guest::Absent);
    assert_ne!(has[0], has[1], "seed {seed}: {world:?}");
    // A target that took the guest over, and could not start it again after a crash, keeps it.
    let kept = world.target == Target::Running;
    let runs = world.source_guest == Guest::Runs || world.target_guest == Guest::Runs || kept;
    assert!(runs, "seed {seed}: {world:?}");
}

#[test]
fn one_side_has_the_guest_whatever_happens() {
    for seed in 0..20_000 {
        run(seed);
    }
}
