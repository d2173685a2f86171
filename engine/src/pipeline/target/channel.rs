//! One data channel of the target: receive a frame, check it, place its pages, acknowledge.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use super::base_pages::BasePages;
use super::dedup::DedupReader;
use super::placer::Placer;
use crate::memory::GuestMemory;
use crate::migration::{HEARTBEAT, MigrationError, Target, TargetStages};
use crate::pipeline::Step;
use crate::pipeline::clock::Clock;
use crate::pipeline::control::lost;
use crate::pipeline::disconnect_grace::DisconnectGrace;
use crate::pipeline::shared::Shared;
use crate::units::{ByteCount, Instant, PageRange};
use crate::wire::{
    FrameError, FrameHeader, FrameReader, FrameType, HEADER_BYTES, MAX_FRAME_PAGES, Message,
    PagesBody, ReadOutcome,
};

/// The receiving half of a data channel that has joined.
pub struct TargetChannel {
    shared: Arc<Shared<Target>>,
    placer: Placer,
    /// Pages of a frame that could not be made.
    missing: Vec<PageRange>,
    number: u16,
    reader: FrameReader<Box<dyn Read + Send>>,
    /// What the stages did that the machine was not told yet.
    stages: TargetStages,
    /// Whether a frame has come: waiting counts from then on.
    begun: bool,
    delays: Delays,
    /// Since when the channel waits at a round's barrier.
    held_since: Option<Instant>,
    disconnect_grace: DisconnectGrace,
}

impl std::fmt::Debug for TargetChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetChannel")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl TargetChannel {
    /// Reads channel `number` from `reader`, whose first frame was its `Join`. References, if
    /// any were agreed on, are to `base_pages` or to the guest's own pages.
    pub fn new(
        shared: Arc<Shared<Target>>,
        memory: Arc<dyn GuestMemory>,
        base_pages: Arc<BasePages>,
        number: u16,
        reader: FrameReader<Box<dyn Read + Send>>,
    ) -> Self {
        let secret = shared.look(Target::dedup_secret);
        let dedup = secret.map(|secret| DedupReader::new(secret, base_pages));
        Self {
            shared,
            placer: Placer::new(memory, dedup),
            missing: Vec::with_capacity(MAX_FRAME_PAGES),
            number,
            reader,
            stages: TargetStages::default(),
            begun: false,
            delays: Delays::default(),
            held_since: None,
            disconnect_grace: DisconnectGrace::default(),
        }
    }

    /// The same, for a connection by which the source writes memory itself.
    #[must_use]
    pub(super) fn one_sided(mut self) -> Self {
        self.placer.expect_placed();
        self
    }

    /// The machine that the channel serves.
    pub fn shared(&self) -> &Arc<Shared<Target>> {
        &self.shared
    }

    /// Whether the channel may read: not while it waits at a round's barrier.
    pub fn may_read(&self) -> bool {
        self.shared.look(|target| target.may_read(self.number))
    }

    /// Receives and places one frame. Waits only as long as the connection's read does.
    ///
    /// # Errors
    /// When the connection is lost, memory cannot be written, or the source broke the protocol.
    pub fn step(&mut self) -> Result<Step, MigrationError> {
        if self.shared.look(Target::is_over) {
            return Ok(Step::Done);
        }
        if let Some(step) = self.disconnect_grace.step(self.shared.now(), false) {
            return step;
        }
        let now = self.shared.now();
        if !self.may_read() {
            self.held_since.get_or_insert(now);
            return Ok(Step::Wait(now.after(HEARTBEAT / 4)));
        }
        if let Some(since) = self.held_since.take() {
            self.stages.place.waiting += now.since(since);
        }
        let header = match self.receive() {
            Ok(ReadOutcome::Frame(header)) => header,
            Ok(ReadOutcome::Pending) => return Ok(Step::Quiet),
            // After the last round the source may drop its data connections at any time.
            Err(_) if self.shared.look(Target::has_all_pages) => {
                return Ok(Step::Done);
            }
            Err(error @ (FrameError::Closed | FrameError::Io(_))) => {
                return Ok(self.disconnect_grace.lost(self.shared.now(), error.into()));
            }
            Err(error) => return Err(error.into()),
        };
        let bytes = ByteCount((HEADER_BYTES + header.length) as u64);
        let acknowledge = match header.kind {
            FrameType::Pages => self.place(bytes)?,
            _ => self.end_round(&header, bytes)?,
        };
        if acknowledge {
            self.shared.flush_messages().map_err(lost)?;
        }
        Ok(Step::Worked)
    }

    /// Reads a frame, or what there is of it.
    fn receive(&mut self) -> Result<ReadOutcome, FrameError> {
        let clock = self.shared.clock();
        let (began, cpu) = (clock.now(), clock.thread_cpu());
        let outcome = self.reader.read();
        let took = clock.now().since(began);
        if self.begun {
            let busy = clock.thread_cpu().saturating_sub(cpu).min(took);
            let waiting = self.delays.taken_from(took - busy, clock);
            self.stages.receive.busy += busy;
            self.stages.receive.waiting += waiting;
        }
        self.begun |= matches!(outcome, Ok(ReadOutcome::Frame(_)));
        outcome
    }

    fn place(&mut self, bytes: ByteCount) -> Result<bool, MigrationError> {
        let body = PagesBody::decode(self.reader.body())?;
        let bytes = bytes + ByteCount(body.placed_bytes());
        self.shared
            .look(|target| target.admit(self.number, &body))?;
        self.missing.clear();
        let clock = self.shared.clock();
        self.stages += self.placer.place(&body, clock, &mut self.missing)?;
        let stages = std::mem::take(&mut self.stages);
        let now = self.shared.now();
        // Nobody waits for a frame; this thread sends the acknowledgement itself.
        Ok(self.shared.try_with(|target| {
            target.worked(self.number, stages);
            target.made(&body, &self.missing, now);
            let acknowledged = target.placed(self.number, bytes, now);
            (acknowledged || !self.missing.is_empty(), false)
        }))
    }

    fn end_round(
        &mut self,
        header: &FrameHeader,
        bytes: ByteCount,
    ) -> Result<bool, MigrationError> {
        let message = Message::decode(header.kind, self.reader.body())?;
        let Message::RoundEnd { round } = message else {
            let what = format!("{:?} on a data connection", header.kind);
            return Err(MigrationError::PeerMisbehaved(what));
        };
        let now = self.shared.now();
        let stages = std::mem::take(&mut self.stages);
        self.shared.with(|target| {
            target.worked(self.number, stages);
            target.round_end(self.number, round, bytes, now)
        })?;
        Ok(true)
    }
}

/// Time between two looks at how long the thread was without a processor.
const DELAY_LOOK: Duration = Duration::from_millis(1);

/// Tells waiting for data from waiting for a processor.
#[derive(Debug, Default)]
struct Delays {
    looked_at: Instant,
    /// Time without a processor up to then, and how much of it no waiting has been reduced by.
    seen: Duration,
    owed: Duration,
}

impl Delays {
    /// What is left of `waiting`, a while of which the thread may have been ready to work. Delays
    /// while it worked are taken from it as well: a thread that has no processor then could not have
    /// done more.
    fn taken_from(&mut self, waiting: Duration, clock: &dyn Clock) -> Duration {
        let now = clock.now();
        if now.since(self.looked_at) >= DELAY_LOOK {
            self.looked_at = now;
            let before = std::mem::replace(&mut self.seen, clock.thread_delay());
            self.owed += self.seen.saturating_sub(before);
        }
        let delayed = self.owed.min(waiting);
        self.owed -= delayed;
        waiting - delayed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Milliseconds that have passed, half of them without a processor.
    struct Crowded(AtomicU64);

    impl Clock for Crowded {
        fn now(&self) -> Instant {
            Instant(1_000_000_000).after(Duration::from_millis(self.0.load(Ordering::Relaxed)))
        }

        fn thread_delay(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed) / 2)
        }
    }

    #[test]
    fn waiting_for_a_processor_is_not_waiting_for_data() {
        let clock = Crowded(AtomicU64::new(0));
        let mut delays = Delays::default();
        let mut left = |ms: u64, waiting: u64| {
            clock.0.fetch_add(ms, Ordering::Relaxed);
            let left = delays.taken_from(Duration::from_millis(waiting), &clock);
            left.as_millis()
        };
        assert_eq!(left(10, 8), 3, "five of ten were without one");
        assert_eq!(left(10, 2), 0);
        assert_eq!(left(0, 4), 1, "three are owed");
        assert_eq!(left(10, 10), 5);
    }
}
