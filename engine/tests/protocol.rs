//! The source and the target machine against each other, message by message: orders of events
//! that threads and networks bring about rarely.

use std::time::Duration;

use pagelift_engine::converge::{Decision, Observation, Policy, Predictive, PredictiveConfig};
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::migration::{
    Batch, DATA_SILENCE, GuestLocation, IN_DOUBT, MigrationError, Ownership, PEER_SILENCE,
    SentFrame, Source, SourceStep, Target, TargetStages, TargetStep, Work,
};
use pagelift_engine::units::{ByteCount, Instant, PageCount, PageRange};
use pagelift_engine::wire::{AbortCode, Ack, Encoding, Encodings, Message, Waited};

mod machines;
mod support;

use machines::{SESSION, source_config, target_config};
use support::layout;

const PAGES: u64 = 200;

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

fn pages(range: PageRange) -> PageBitmap {
    let mut set = PageBitmap::new(PageCount(PAGES));
    set.insert(range);
    set
}

/// Both machines, one data channel, and messages that go over by hand.
struct Pair {
    now: Instant,
    source: Source,
    target: Target,
    batch: Batch,
}

impl Pair {
    fn new(stop_at: u32) -> Self {
        Self::with(stop_at, Encodings::none(), Encodings::readable())
    }

    /// With encodings that the source needs and the target reads.
    fn with(stop_at: u32, needs: Encodings, reads: Encodings) -> Self {
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

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    fn tell_target(&mut self) {
        while let Some(message) = self.source.poll_message() {
            self.target.handle_message(self.now, message).unwrap();
        }
    }

    fn tell_source(&mut self) {
        while let Some(message) = self.target.poll_message() {
            self.source.handle_message(self.now, message).unwrap();
        }
    }

    /// Until the source sends its first round, of pages 0 to 99.
    fn begin(&mut self) {
        self.tell_target();
        assert!(matches!(self.target.poll(self.now), TargetStep::Prepare));
        self.target.prepared(self.now);
        self.tell_source();
        self.target.join(0).unwrap();
        assert!(matches!(self.source.poll(self.now), SourceStep::Arm));
        self.source.armed(self.now, &pages(PageRange::new(0, 100)));
    }

    /// The data channel carries one thing over, without its acknowledgement.
    fn carry(&mut self) -> Work {
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

    fn carry_round(&mut self) {
        while matches!(self.carry(), Work::Pages) {}
        self.tell_source();
    }

    /// Until the target says that it is ready, and the source has heard it.
    fn until_ready(&mut self) {
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
    fn target_gives_up_in_doubt(&mut self) {
        self.target.handle_time(self.now).unwrap();
        assert!(self.target.is_over());
        assert!(!self.target.accepts_reattach(SESSION));
        assert_eq!(self.target.guest_location(), GuestLocation::Unknown);
        let error = self.target.take_failure();
        assert!(matches!(error, Some(MigrationError::InDoubt(_))));
    }

    fn hand_over(&mut self) {
        let SourceStep::HandOver(ready) = self.source.poll(self.now) else {
            panic!("the target is ready");
        };
        let stopped = Ownership::claim().stop();
        self.source.relinquished(self.now, stopped, ready).unwrap();
    }
}

/// The last pages may arrive before the message that says that they are the last.
#[test]
fn the_last_round_may_overtake_its_announcement() {
    let mut pair = Pair::new(1);
    pair.begin();
    pair.carry_round();
    assert!(matches!(pair.source.poll(pair.now), SourceStep::Harvest));
    let dirty = pages(PageRange::new(3, 2));
    pair.source.harvested(pair.now, &dirty).unwrap();
    assert!(matches!(pair.source.poll(pair.now), SourceStep::StopGuest));
    pair.source.stopped(pair.now, pair.now, &dirty);
    pair.carry_round();
    pair.tell_target();
    assert!(pair.target.has_all_pages());
}

#[test]
fn a_ready_target_waits_for_the_word_of_the_source() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.target.fail(MigrationError::Cancelled);
    pair.pass(PEER_SILENCE);
    pair.target.handle_time(pair.now).unwrap();
    pair.pass(PEER_SILENCE);
    pair.target.handle_time(pair.now).unwrap();
    pair.tell_source();
    pair.hand_over();
    pair.tell_target();
    assert!(matches!(pair.target.poll(pair.now), TargetStep::Run(_)));
}

#[test]
fn a_ready_target_that_is_left_alone_does_not_claim_to_know() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.pass(Duration::from_secs(1));
    pair.target.handle_time(pair.now).unwrap();
    pair.pass(PEER_SILENCE);
    pair.target.handle_time(pair.now).unwrap();
    pair.pass(IN_DOUBT);
    pair.target_gives_up_in_doubt();
}

/// With a connection it keeps its promise.
#[test]
fn a_ready_target_can_be_cancelled_only_while_its_source_is_lost() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.target.cancel();
    assert!(!pair.target.is_over());
    let lost = MigrationError::PeerSilent { seconds: 5 };
    pair.target.control_failed(pair.now, lost);
    pair.target.cancel();
    pair.target_gives_up_in_doubt();
}

/// Nobody but a source that has lost its connection has reason to ask for another one.
#[test]
fn a_connection_that_lives_is_not_taken_over() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    assert!(!pair.target.accepts_reattach(SESSION), "it lives");
    pair.pass(Duration::from_secs(1));
    pair.target.handle_time(pair.now).unwrap();
    pair.pass(PEER_SILENCE);
    pair.target.handle_time(pair.now).unwrap();
    assert!(pair.target.accepts_reattach(SESSION), "it does not answer");
    pair.target.reattached(pair.now);
    assert!(!pair.target.accepts_reattach(SESSION), "the new one lives");
}

#[test]
fn the_source_can_take_its_guest_back_from_a_ready_target() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    let abort = Message::Abort {
        code: AbortCode::Cancelled,
        reason: "cancelled".into(),
    };
    let error = pair.target.handle_message(pair.now, abort).unwrap_err();
    pair.target.control_failed(pair.now, error);
    assert!(pair.target.is_over());
    assert_eq!(pair.target.guest_location(), GuestLocation::Source);
}

/// Damage after the hand-over must not cost the target the right that it was given.
#[test]
fn a_granted_guest_runs_whatever_comes_after_the_grant() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.tell_source();
    pair.hand_over();
    pair.tell_target();
    let nonsense = Message::LastRound { round: 9 };
    let error = pair.target.handle_message(pair.now, nonsense).unwrap_err();
    pair.target.control_failed(pair.now, error);
    pair.pass(IN_DOUBT * 2);
    pair.target.handle_time(pair.now).unwrap();
    assert!(matches!(pair.target.poll(pair.now), TargetStep::Run(_)));
    pair.target.running(pair.now, Duration::ZERO);
    pair.source.reattached(pair.now);
    pair.source.poll_message();
    assert!(pair.target.accepts_reattach(SESSION));
    pair.target.reattached(pair.now);
    pair.tell_source();
    assert!(matches!(pair.source.poll(pair.now), SourceStep::Completed));
    pair.tell_target();
    assert!(pair.target.is_settled());
}

/// The source hangs between the commit and the hand-over, and wakes up when the target has ended
/// by `abort`: the guest is where?
fn woken_by(abort: AbortCode) -> GuestLocation {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.tell_source();
    let SourceStep::HandOver(ready) = pair.source.poll(pair.now) else {
        panic!("the target is ready");
    };
    pair.pass(IN_DOUBT * 2);
    let abort = Message::Abort {
        code: abort,
        reason: "it has waited long enough".into(),
    };
    let error = pair.source.handle_message(pair.now, abort).unwrap_err();
    pair.source.fail(error);
    let stopped = Ownership::claim().stop();
    let kept = pair.source.relinquished(pair.now, stopped, ready);
    assert!(matches!(pair.source.poll(pair.now), SourceStep::Failed));
    assert_eq!(pair.source.poll_message(), None, "it is not handed over");
    assert_eq!(kept.is_err(), !pair.source.has_handed_over());
    let error = pair.source.take_failure();
    assert!(matches!(error, Some(MigrationError::PeerAborted { .. })));
    pair.source.guest_location()
}

/// A target that has given up in doubt has told its user that the guest may be let run there.
#[test]
fn a_source_that_wakes_too_late_does_not_claim_the_guest() {
    assert_eq!(woken_by(AbortCode::Other), GuestLocation::Unknown);
    // What was to run it has ended.
    assert_eq!(woken_by(AbortCode::Guest), GuestLocation::Source);
}

#[test]
fn a_guest_that_does_not_start_there_is_there_all_the_same() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.tell_source();
    pair.hand_over();
    let abort = Message::Abort {
        code: AbortCode::Guest,
        reason: "no processor starts".into(),
    };
    pair.source.handle_message(pair.now, abort).unwrap_err();
    assert_eq!(pair.source.guest_location(), GuestLocation::Target);
}

/// Channels must close a round that is cut short, or the next one's pages come out of order.
#[test]
fn a_policy_may_stop_the_guest_within_a_round() {
    let mut pair = Pair::new(1);
    pair.begin();
    assert_eq!(pair.carry(), Work::Pages);
    pair.pass(Duration::from_millis(60));
    pair.source.handle_time(pair.now).unwrap();
    assert_eq!(pair.carry(), Work::RoundEnd(1));
    assert!(matches!(pair.source.poll(pair.now), SourceStep::StopGuest));
    pair.source
        .stopped(pair.now, pair.now, &pages(PageRange::new(0, 1)));
    let mut sent = PageBitmap::new(PageCount(PAGES));
    while matches!(pair.carry(), Work::Pages) {
        assert_eq!(pair.batch.round, 2);
        pair.batch.runs.iter().for_each(|run| sent.insert(*run));
        pair.tell_source();
    }
    // The first frame took 16 pages; the rest, and what was written since, goes last.
    let mut expected = pages(PageRange::new(16, 84));
    expected.insert(PageRange::new(0, 1));
    assert_eq!(sent, expected);
}

#[test]
fn pages_that_go_nowhere_are_noticed_while_the_control_connection_lives() {
    let mut pair = Pair::new(9);
    pair.begin();
    pair.source.next_work(pair.now, 0, &mut pair.batch);
    let mut ended = None;
    for _ in 0..DATA_SILENCE.as_secs() + 1 {
        pair.pass(Duration::from_secs(1));
        pair.source.handle_message(pair.now, Message::Pong).unwrap();
        ended = pair.source.handle_time(pair.now).err();
    }
    assert!(matches!(ended, Some(MigrationError::Link { .. })));
}

/// A target that only repeats itself makes no progress.
#[test]
fn acknowledgements_of_the_same_frames_do_not_keep_a_migration_alive() {
    let mut pair = Pair::new(9);
    pair.begin();
    pair.carry();
    pair.source.next_work(pair.now, 0, &mut pair.batch);
    let again = Message::Ack(Ack {
        channel: 0,
        frames: 1,
        bytes: 100,
    });
    let mut ended = None;
    for _ in 0..DATA_SILENCE.as_secs() + 1 {
        let (now, again) = (pair.now, again.clone());
        pair.source.handle_message(now, again).unwrap();
        pair.pass(Duration::from_secs(1));
        ended = pair.source.handle_time(pair.now).err();
    }
    assert!(matches!(ended, Some(MigrationError::Link { .. })));
}

/// A link that looks quicker than it is would have the guest stopped too early.
#[test]
fn a_target_cannot_make_up_the_rate_of_the_link() {
    let mut pair = Pair::new(9);
    pair.begin();
    pair.carry();
    let inflated = Message::Ack(Ack {
        channel: 0,
        frames: 1,
        bytes: 100 << 20,
    });
    let error = pair.source.handle_message(pair.now, inflated);
    assert!(matches!(error, Err(MigrationError::PeerMisbehaved(_))));
    assert!(pair.source.placed_bytes() < ByteCount(200));
}

/// The control reader may end the migration while the coordinator stops the guest.
#[test]
fn what_was_harvested_when_it_failed_is_given_back() {
    let mut pair = Pair::new(1);
    pair.begin();
    pair.carry_round();
    assert!(matches!(pair.source.poll(pair.now), SourceStep::Harvest));
    let nothing = pages(PageRange::new(0, 0));
    pair.source.harvested(pair.now, &nothing).unwrap();
    assert!(matches!(pair.source.poll(pair.now), SourceStep::StopGuest));
    pair.source.fail(MigrationError::Cancelled);
    pair.source
        .stopped(pair.now, pair.now, &pages(PageRange::new(5, 3)));
    assert!(matches!(pair.source.poll(pair.now), SourceStep::Failed));
    let mut back = PageBitmap::new(PageCount(PAGES));
    pair.source.undelivered(&mut back);
    assert_eq!(back, pages(PageRange::new(5, 3)));
}

/// A target that is built without zstd, and sources that ask for it or do not.
#[test]
fn a_codec_that_the_target_cannot_read_is_refused_if_it_must_be_used() {
    let reads = Encodings::readable().without(Encoding::Zstd);
    let greet = |needs| {
        let mut pair = Pair::with(1, needs, reads);
        let hello = pair.source.poll_message().unwrap();
        let greeted = pair.target.handle_message(pair.now, hello);
        (pair, greeted)
    };
    let zstd = Encodings::none().with(Encoding::Zstd).with(Encoding::More);
    let (mut pair, greeted) = greet(zstd);
    assert!(matches!(greeted, Err(MigrationError::Refused { .. })));
    let refuse = pair.target.poll_message().unwrap();
    let refused = pair.source.handle_message(pair.now, refuse).unwrap_err();
    let words = refused.to_string();
    assert!(words.contains("packs pages with zstd"), "{words}");
    assert!(words.contains("--compress auto"), "the way out: {words}");

    // Something that this build has never heard of.
    let (_, greeted) = greet(Encodings(1 << 20));
    let words = greeted.unwrap_err().to_string();
    assert!(words.contains("(number 20)"), "{words}");

    let lz4 = Encodings::none().with(Encoding::Lz4).with(Encoding::More);
    let (mut pair, greeted) = greet(lz4);
    assert!(greeted.is_ok());
    assert_eq!(pair.source.target_reads(), Encodings::BASIC, "not yet");
    pair.begin();
    assert_eq!(pair.source.target_reads(), reads);
}

/// Rounds of nothing would follow each other as fast as the processor allows.
#[test]
fn a_guest_that_writes_nothing_costs_no_rounds() {
    let mut pair = Pair::new(100);
    pair.begin();
    pair.carry_round();
    let nothing = pages(PageRange::new(0, 0));
    for _ in 0..5 {
        assert!(matches!(pair.source.poll(pair.now), SourceStep::Harvest));
        pair.source.harvested(pair.now, &nothing).unwrap();
        assert!(matches!(pair.source.poll(pair.now), SourceStep::Wait(_)));
        assert_eq!(pair.carry(), Work::Wait);
        pair.pass(Duration::from_millis(10));
    }
    assert_eq!(pair.source.status(pair.now).round, 1);
}

#[test]
fn pings_that_waited_behind_pages_do_not_keep_a_guest_that_may_be_stopped() {
    let mut pair = Pair::new(1);
    let policy = Box::new(Predictive::new(PredictiveConfig::default()));
    pair.source = Source::new(source_config(layout(&[PAGES]), policy), pair.now);
    pair.begin();
    // Three messages there and back would take longer than a blackout may.
    for _ in 0..10 {
        pair.tell_target();
        pair.pass(Duration::from_millis(30));
        pair.tell_source();
    }
    pair.carry_round();
    let (nothing, rests) = (pages(PageRange::new(0, 0)), pair.now);
    loop {
        match pair.source.poll(pair.now) {
            SourceStep::Harvest => pair.source.harvested(pair.now, &nothing).unwrap(),
            SourceStep::Wait(_) => {
                pair.tell_target();
                pair.pass(Duration::from_millis(1));
                pair.tell_source();
            }
            step => {
                assert!(matches!(step, SourceStep::StopGuest), "{step:?}");
                break;
            }
        }
        let rested = pair.now.since(rests);
        assert!(
            rested < Duration::from_millis(200),
            "it rests for {rested:?}"
        );
    }
    assert!(pair.now.since(rests) > Duration::ZERO, "it had to rest");
}

#[test]
fn a_source_with_pages_left_asks_once_between_rounds_what_a_message_costs() {
    let mut pair = Pair::new(100);
    pair.begin();
    // Until the first few pings are answered.
    for _ in 0..10 {
        pair.tell_target();
        pair.pass(Duration::from_millis(30));
        pair.tell_source();
    }
    for _ in 0..3 {
        pair.carry_round();
        assert!(matches!(pair.source.poll(pair.now), SourceStep::Harvest));
        let written = pages(PageRange::new(0, 10));
        pair.source.harvested(pair.now, &written).unwrap();
        let said: Vec<_> = std::iter::from_fn(|| pair.source.poll_message()).collect();
        let pings = said.iter().filter(|said| matches!(said, Message::Ping));
        assert_eq!(pings.count(), 1, "{said:?}");
        for message in said {
            pair.target.handle_message(pair.now, message).unwrap();
        }
        pair.tell_source();
    }
}

#[test]
fn the_target_says_with_its_acknowledgements_how_long_a_channel_waited() {
    let mut pair = Pair::new(1);
    pair.begin();
    assert_eq!(pair.source.target_waited(0), None);
    assert!(matches!(pair.carry(), Work::Pages));
    pair.pass(Duration::from_millis(100));
    let mut stages = TargetStages::default();
    stages.receive.waiting = Duration::from_millis(30);
    pair.target.worked(0, stages);
    pair.carry_round();
    let waited = pair.source.target_waited(0).expect("it has placed pages");
    assert_eq!((waited.waited_us, waited.elapsed_us), (30_000, 100_000));
    assert!(pair.source.placed_bytes() >= ByteCount(200));

    let of_nobody = Message::Waited(Waited {
        channel: 1,
        ..waited
    });
    let error = pair.source.handle_message(pair.now, of_nobody);
    assert!(matches!(error, Err(MigrationError::PeerMisbehaved(_))));
}
