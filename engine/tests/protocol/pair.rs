//! Both machines, and messages that go over by hand.

use std::time::Duration;

use pagelift_engine::converge::{Decision, Observation, Policy};
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::migration::{
    Batch, GuestLocation, MigrationError, Ownership, SentFrame, Source, SourceStep, Target,
    TargetStep, Work,
};
use pagelift_engine::units::{ByteCount, Instant, PageCount, PageRange};
use pagelift_engine::wire::Encodings;

use crate::machines::{SESSION, source_config, target_config};
use crate::support::layout;

pub(crate) const PAGES: u64 = 200;

/// Stops the guest when it is asked for the n-th time.
#[derive(Debug)]
struct StopAt(u32);

impl Policy for StopAt {
    fn decide(&mut self, _: &Observation) -> Decision {
        self.0 = self.0.saturating_sub(1);
        if self.0 == 0 {
            Decision::Stop
        } else {
            Decision::Continue
        }
    }

    fn downtime_limit(&self) -> Duration {
        Duration::ZERO
    }
}

pub(crate) fn pages(range: PageRange) -> PageBitmap {
    let mut set = PageBitmap::new(PageCount(PAGES));
    set.insert(range);
    set
}

/// Both machines, one data channel, and messages that go over by hand.
pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) source: Source,
    pub(crate) target: Target,
    pub(crate) batch: Batch,
}

impl Pair {
    pub(crate) fn new(stop_at: u32) -> Self {
        Self::with(stop_at, Encodings::none(), Encodings::readable())
    }

    /// With encodings that the source needs and the target reads.
    pub(crate) fn with(stop_at: u32, needs: Encodings, reads: Encodings) -> Self {
        let now = Instant(1_000_000_000);
        let mut config = source_config(layout(&[PAGES]), Box::new(StopAt(stop_at)));
        config.needs = needs;
        let mut target = target_config(layout(&[PAGES]));
        target.reads = reads;
        Self {
            now,
            source: Source::new(config, now),
            target: Target::new(target, now),
            batch: Batch::default(),
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    pub(crate) fn tell_target(&mut self) {
        while let Some(message) = self.source.poll_message() {
            self.target.handle_message(self.now, message).unwrap();
        }
    }

    pub(crate) fn tell_source(&mut self) {
        while let Some(message) = self.target.poll_message() {
            self.source.handle_message(self.now, message).unwrap();
        }
    }

    /// Until the source sends its first round, of pages 0 to 99.
    pub(crate) fn begin(&mut self) {
        self.tell_target();
        assert!(matches!(self.target.poll(self.now), TargetStep::Prepare));
        self.target.prepared(self.now);
        self.tell_source();
        self.target.join(0).unwrap();
        assert!(matches!(self.source.poll(self.now), SourceStep::Arm));
        self.source.armed(self.now, &pages(PageRange::new(0, 100)));
    }

    /// The data channel carries one thing over, without its acknowledgement.
    pub(crate) fn carry(&mut self) -> Work {
        let work = self.source.next_work(self.now, 0, &mut self.batch);
        let frame = SentFrame {
            bytes: ByteCount(100),
            zero: 0,
            raw: 1,
            ..SentFrame::default()
        };
        match work {
            Work::Pages => {
                self.source.sent(0, frame);
                self.target.placed(0, frame.bytes, self.now);
            }
            Work::RoundEnd(round) => {
                self.source.sent(0, frame);
                let (bytes, now) = (frame.bytes, self.now);
                self.target.round_end(0, round, bytes, now).unwrap();
            }
            Work::Wait | Work::Close => {}
        }
        work
    }

    pub(crate) fn carry_round(&mut self) {
        while matches!(self.carry(), Work::Pages) {}
        self.tell_source();
    }

    /// Until the target says that it is ready, and the source has heard it.
    pub(crate) fn until_ready(&mut self) {
        self.begin();
        self.carry_round();
        assert!(matches!(self.source.poll(self.now), SourceStep::Harvest));
        let nothing = pages(PageRange::new(0, 0));
        self.source.harvested(self.now, &nothing).unwrap();
        assert!(matches!(self.source.poll(self.now), SourceStep::StopGuest));
        self.source.stopped(self.now, self.now, &nothing);
        self.tell_target();
        self.carry_round();
        assert!(matches!(self.target.poll(self.now), TargetStep::Load));
        self.tell_source();
        assert!(matches!(self.source.poll(self.now), SourceStep::SaveState));
        self.source.state_sent();
        self.target.loaded(self.now);
    }

    /// From here on it listens to no source.
    pub(crate) fn target_gives_up_in_doubt(&mut self) {
        self.target.handle_time(self.now).unwrap();
        assert!(self.target.is_over());
        assert!(!self.target.accepts_reattach(SESSION));
        assert_eq!(self.target.guest_location(), GuestLocation::Unknown);
        let error = self.target.take_failure();
        assert!(matches!(error, Some(MigrationError::InDoubt(_))));
    }

    pub(crate) fn hand_over(&mut self) {
        let SourceStep::HandOver(ready) = self.source.poll(self.now) else {
            panic!("the target is ready");
        };
        let stopped = Ownership::claim().stop();
        self.source.relinquished(self.now, stopped, ready).unwrap();
    }
}
