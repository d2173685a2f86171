//! The target's side of the protocol, without I/O.
//!
//! Call order: [`Target::new`]; then, until [`TargetStep::Running`] or [`TargetStep::Failed`],
//! - [`handle_message`](Target::handle_message) takes messages of the control connection,
//! - each data channel calls [`join`](Target::join) once, [`admit`](Target::admit) before it
//!   places a frame's pages and [`placed`](Target::placed) after, and
//!   [`round_end`](Target::round_end), after which it waits until
//!   [`may_read`](Target::may_read) says so,
//! - [`poll`](Target::poll) says what else must be done.
//!
//! Where it is has two sides, which are kept apart: how much of the guest's memory is here
//! (`memory`), and whose the guest is (`commit`).
//!
//! Invariants: no page of a round is placed before every page of the round before (`barrier`), so a
//! page that was sent twice ends as it was sent last; every page lies within the agreed layout; a
//! page that was sent and is not there is missing until it is sent whole, and no memory with one is
//! complete; the guest may run only with a [`Granted`](super::Granted), which is made from the
//! source's `HandOver` and nothing else.
//!
//! Cost: a frame takes a look at its runs and two additions; an acknowledgement goes out every
//! fourth frame of a channel. Nothing is allocated while pages come, unless some are missing.

mod barrier;
mod channels;
mod commit;
mod compatibility;
mod control;
mod dedup;
mod memory;
mod misfit;
mod prepared;
mod same_files;
mod status;
mod types;

pub use misfit::Misfit;
pub use types::{FingerprintDemand, TargetConfig, TargetStatus, TargetStep};

use std::time::Duration;

use self::barrier::Barrier;
use self::commit::{Commit, Contact};
use self::compatibility::incompatibilities;
use self::dedup::Missing;
use self::memory::Memory;
use self::same_files::{compare_files, compare_persistent};
use super::HEARTBEAT;
use super::error::MigrationError;
use super::peer::Peer;
use super::stages::TargetStages;
use crate::units::Instant;
use crate::wire::{Accept, Hello, Message};

/// The target machine.
#[derive(Debug)]
pub struct Target {
    config: TargetConfig,
    /// What the source said of itself, once its guest was found to fit.
    hello: Option<Hello>,
    memory: Memory,
    commit: Commit,
    barrier: Barrier,
    missing: Missing,
    stages: TargetStages,
    peer: Peer,
}

impl Target {
    /// Waits for a source's `Hello`.
    pub fn new(config: TargetConfig, now: Instant) -> Self {
        Self {
            missing: Missing::none_of(config.layout.pages()),
            config,
            hello: None,
            memory: Memory::Vacant,
            commit: Commit::new(),
            barrier: Barrier::default(),
            stages: TargetStages::default(),
            peer: Peer::new(now),
        }
    }

    /// What the caller must do next.
    pub fn poll(&mut self, now: Instant) -> TargetStep {
        let due = match &mut self.commit {
            Commit::SourceOwns { .. } => self.poll_memory(now),
            Commit::Prepared(_) => None,
            Commit::Granted { grant, .. } => grant.take().map(TargetStep::Run),
            Commit::Running { .. } => Some(TargetStep::Running),
            Commit::Ended { .. } => Some(TargetStep::Failed),
        };
        due.unwrap_or_else(|| TargetStep::Wait(now.after(HEARTBEAT / 4)))
    }

    /// What the memory needs, and then the device state. Each thing is asked for once.
    fn poll_memory(&mut self, now: Instant) -> Option<TargetStep> {
        if matches!(self.memory, Memory::Digesting { .. }) && !self.verify() {
            self.complete(now, None);
        }
        let once = |asked: &mut bool| !std::mem::replace(asked, true);
        match &mut self.memory {
            Memory::Marking(marking) => marking.next_step(),
            Memory::Clearing { asked } => once(asked).then_some(TargetStep::Prepare),
            Memory::Digesting { asked } => once(asked).then_some(TargetStep::Digest),
            Memory::Complete => match &mut self.commit {
                Commit::SourceOwns { load_asked } => once(load_asked).then_some(TargetStep::Load),
                _ => None,
            },
            Memory::Vacant | Memory::Receiving => None,
        }
    }

    /// The memory reads as zeros: the source may send.
    pub fn prepared(&mut self, now: Instant) {
        if matches!(self.memory, Memory::Clearing { .. })
            && self.commit.is_open()
            && let Some(version) = self.hello.as_ref().and_then(Hello::common_version)
        {
            self.memory = Memory::Receiving;
            let accept = Accept {
                version,
                reads: self.config.reads,
                dedup: self.terms(),
            };
            self.peer.send(now, Message::Accept(accept));
        }
    }

    /// The digest of the whole memory.
    pub fn digested(&mut self, now: Instant, digest: u128) {
        if matches!(self.memory, Memory::Digesting { .. }) && self.commit.is_open() {
            self.complete(now, Some(digest));
        }
    }

    fn complete(&mut self, now: Instant, digest: Option<u128>) {
        self.memory = Memory::Complete;
        self.peer.send(now, Message::Complete { digest });
    }

    /// The device state is loaded: the guest could run.
    pub fn loaded(&mut self, now: Instant) {
        if self.memory == Memory::Complete && self.commit.is_open() {
            self.commit = Commit::Prepared(Contact::Connected);
            self.peer.send(now, Message::Ready);
        }
    }

    /// The guest runs here; this process has used `cpu` so far.
    pub fn running(&mut self, now: Instant, cpu: Duration) {
        if let Commit::Granted { contact, .. } = self.commit {
            let cpu_us = micros(cpu);
            self.commit = Commit::Running {
                cpu_us,
                is_settled: false,
                contact,
            };
            self.peer.send(now, Message::Running { cpu_us });
        }
    }

    /// Every reason why the guest of `hello` cannot come here.
    pub fn incompatibilities(&self, hello: &Hello) -> Vec<Misfit> {
        let mut misfits = incompatibilities(hello, &self.config);
        let shared = compare_files(hello, &self.config.files).shared;
        let persistent = compare_persistent(hello, &self.config.persistent);
        // These say whether a file is the source's own, which is no secret to a source that has it.
        misfits.extend(
            shared
                .iter()
                .chain(&persistent)
                .map(|words| Misfit::open(words)),
        );
        misfits
    }

    /// A message for the control connection.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.peer.next_message()
    }

    /// Why it failed, once.
    pub fn take_failure(&mut self) -> Option<MigrationError> {
        self.commit.take_failure()
    }

    /// Whether there is nothing more to do.
    pub fn is_over(&self) -> bool {
        self.commit.is_over()
    }

    /// Whether every page of the last round is in memory.
    pub fn has_all_pages(&self) -> bool {
        self.memory.has_all_pages()
    }

    /// Whether the handshake asked for digests.
    pub fn verify(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.verify)
    }
}

/// A time as messages have it.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
