//! References between the two machines, message by message: what is missing, when it goes
//! again, and what a target says that lies.

use std::cell::Cell;
use std::time::Duration;

use pagelift_engine::converge::{Decision, Observation, Policy};
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::migration::{
    Batch, FingerprintDemand, MigrationError, SentFrame, Source, SourceStep, Target, TargetStep,
    Work,
};
use pagelift_engine::units::{ByteCount, Instant, PageCount, PageIndex, PageRange};
use pagelift_engine::wire::{
    DedupTerms, Encoding, FingerprintChunk, Message, PagesBody, PagesBuilder, Place,
    REFERENCE_BYTES, Reference,
};

mod machines;
mod support;
use machines::{source_config, target_config};
use support::layout;

const PAGES: u64 = 200;
const NOW: Instant = Instant(1_000_000_000);
const KEPT: u64 = 50;

/// Stops the guest when it is asked, if it may.
#[derive(Debug)]
struct StopAfter(u32);

thread_local! {
    /// What the policy was told last.
    static SEEN_BYTES_PER_PAGE: Cell<f64> = const { Cell::new(0.0) };
}

impl Policy for StopAfter {
    fn decide(&mut self, seen: &Observation) -> Decision {
        SEEN_BYTES_PER_PAGE.set(seen.bytes_per_page);
        match self.0.checked_sub(1) {
            None => Decision::Stop,
            Some(left) => {
                self.0 = left;
                Decision::Continue
            }
        }
    }

    fn downtime_limit(&self) -> Duration {
        Duration::ZERO
    }
}

fn set(ranges: &[(u64, u64)]) -> PageBitmap {
    let mut set = PageBitmap::new(PageCount(PAGES));
    for (first, count) in ranges {
        set.insert(PageRange::new(*first, *count));
    }
    set
}

/// The body of a frame of pages that go as references, or as zeros: docs/wire-format.md.
fn frame_of(round: u32, runs: &[PageRange], refers: bool) -> Vec<u8> {
    let (encoding, bytes) = match refers {
        true => (Encoding::Reference, REFERENCE_BYTES),
        false => (Encoding::Zero, 0),
    };
    let mut body = round.to_le_bytes().to_vec();
    body.extend((runs.len() as u16).to_le_bytes());
    body.extend([0; 2]);
    for run in runs {
        body.extend(run.first.0.to_le_bytes());
        body.extend((run.count.0 as u32).to_le_bytes());
        body.extend((bytes as u32).to_le_bytes());
        body.extend((encoding as u16).to_le_bytes());
        body.extend([0; 2]);
    }
    let reference = Reference {
        place: Place::Base(0),
        identity: 0,
    };
    for _ in runs.iter().filter(|_| refers) {
        body.extend(reference.encode());
    }
    body
}

/// Both machines, one data channel, and messages that go over by hand.
struct Pair {
    source: Source,
    target: Target,
    batch: Batch,
}

impl Pair {
    /// After the first harvest, of pages 0 to 39.
    fn new(rounds: u32, wanted: Option<u64>, offered: Option<u64>) -> Self {
        let mut source = source_config(layout(&[PAGES]), Box::new(StopAfter(rounds)));
        source.frame_pages = 16;
        source.dedup = wanted;
        let mut target = target_config(layout(&[PAGES]));
        target.dedup = offered.map(|base_pages| DedupTerms {
            nonce: 9,
            base_pages,
        });
        let mut pair = Self {
            source: Source::new(source, NOW),
            target: Target::new(target, NOW),
            batch: Batch::default(),
        };
        pair.tell_target();
        assert!(matches!(pair.target.poll(NOW), TargetStep::Prepare));
        assert_eq!(pair.target.fingerprint_demand(), FingerprintDemand::NotYet);
        pair.target.prepared(NOW);
        pair.tell_source();
        pair.target.join(0).unwrap();
        assert!(matches!(pair.source.poll(NOW), SourceStep::Arm));
        pair.source.armed(NOW, &set(&[(0, 40)]));
        pair
    }

    fn agreed(rounds: u32) -> Self {
        Self::new(rounds, Some(1000), Some(KEPT))
    }

    fn tell_target(&mut self) {
        while let Some(message) = self.source.poll_message() {
            self.target.handle_message(NOW, message).unwrap();
        }
    }

    fn tell_source(&mut self) -> Vec<Message> {
        let mut told = Vec::new();
        while let Some(message) = self.target.poll_message() {
            told.push(message.clone());
            self.source.handle_message(NOW, message).unwrap();
        }
        told
    }

    /// The channel sends a frame, as a reference or not, and the target misses `missing` of it.
    fn carry(&mut self, refers: bool, missing: &[(u64, u64)]) -> Work {
        let work = self.source.next_work(NOW, 0, &mut self.batch);
        let bytes = ByteCount(100);
        match work {
            Work::Pages => {
                let count = self.batch.runs.iter().map(|run| run.count.0).sum();
                let (reference, zero) = if refers { (count, 0) } else { (0, count) };
                let frame = SentFrame {
                    bytes,
                    reference,
                    zero,
                    ..SentFrame::default()
                };
                let body = frame_of(self.batch.round, &self.batch.runs, refers);
                let body = PagesBody::decode(&body).unwrap();
                self.target.admit(0, &body).unwrap();
                let missing: Vec<_> = missing
                    .iter()
                    .map(|(first, count)| PageRange::new(*first, *count))
                    .collect();
                self.source.sent(0, frame);
                self.target.made(&body, &missing, NOW);
                self.target.placed(0, bytes, NOW);
            }
            Work::RoundEnd(round) => {
                let frame = SentFrame {
                    bytes,
                    ..SentFrame::default()
                };
                self.source.sent(0, frame);
                self.target.round_end(0, round, bytes, NOW).unwrap();
            }
            Work::Wait | Work::Close => {}
        }
        work
    }

    /// The rest of the round goes over as references, none of which is missing.
    fn carry_round(&mut self) -> PageBitmap {
        let mut sent = PageBitmap::new(PageCount(PAGES));
        loop {
            match self.carry(true, &[]) {
                Work::Pages => self.batch.runs.iter().for_each(|run| sent.insert(*run)),
                Work::RoundEnd(_) => return sent,
                work => panic!("{work:?} in a round"),
            }
        }
    }

    fn harvest(&mut self, dirty: &[(u64, u64)]) {
        assert!(matches!(self.source.poll(NOW), SourceStep::Harvest));
        self.source.harvested(NOW, &set(dirty)).unwrap();
    }

    fn stop(&mut self) {
        assert!(matches!(self.source.poll(NOW), SourceStep::StopGuest));
        self.source.stopped(NOW, NOW, &set(&[]));
        self.tell_target();
    }
}

#[test]
fn what_is_missing_is_told_before_it_is_acknowledged_and_goes_whole_in_the_next_round() {
    let mut pair = Pair::agreed(5);
    assert_eq!(pair.carry(true, &[(3, 2)]), Work::Pages);
    assert!(pair.batch.may_refer && pair.batch.whole.is_empty());
    assert_eq!(pair.target.missing_pages(), PageCount(2));
    pair.carry_round();
    let told = pair.tell_source();
    assert!(
        matches!(&told[..], [Message::Missing(runs), .., Message::Ack(_), Message::Waited(_)]
            if runs[..] == [PageRange::new(3, 2)]),
        "{told:?}"
    );
    pair.harvest(&[(3, 1), (8, 1)]);
    assert_eq!(pair.carry(false, &[]), Work::Pages);
    assert_eq!(
        pair.batch.runs,
        [PageRange::new(3, 2), PageRange::new(8, 1)]
    );
    assert_eq!(pair.batch.whole, [PageIndex(3), PageIndex(4)]);
    assert_eq!(pair.target.missing_pages(), PageCount(0));
    pair.carry_round();
    // Once: after that they are like all others.
    pair.harvest(&[(3, 1)]);
    assert_eq!(pair.carry(true, &[]), Work::Pages);
    assert!(pair.batch.whole.is_empty());
    assert_eq!(pair.source.report().dedup.missing, PageCount(2));
}

#[test]
fn what_is_missing_within_a_round_does_not_go_twice_in_it() {
    let mut pair = Pair::agreed(5);
    pair.carry(true, &[(0, 1)]);
    pair.tell_source();
    assert_eq!(pair.carry_round(), set(&[(16, 24)]));
    pair.tell_source();
    pair.harvest(&[]);
    assert_eq!(pair.carry_round(), set(&[(0, 1)]));
}

/// The answers to the round before may come when the last one is all sent.
#[test]
fn the_last_round_waits_for_answers_and_takes_what_is_missing() {
    let mut pair = Pair::agreed(0);
    assert_eq!(pair.carry(true, &[(2, 1), (30, 1)]), Work::Pages);
    pair.carry_round();
    pair.harvest(&[(20, 3)]);
    pair.stop();
    assert_eq!(pair.carry(false, &[]), Work::Pages);
    assert!(!pair.batch.may_refer);
    assert_eq!(pair.batch.runs, [PageRange::new(20, 3)]);
    assert_eq!(pair.carry(false, &[]), Work::Wait, "answers are due");
    pair.tell_source();
    let mut sent = set(&[]);
    while pair.carry(false, &[]) == Work::Pages {
        pair.batch.runs.iter().for_each(|run| sent.insert(*run));
    }
    assert_eq!(sent, set(&[(2, 1), (30, 1)]));
    assert!(pair.target.has_all_pages());
    pair.tell_source();
    assert!(matches!(pair.source.poll(NOW), SourceStep::Wait(_)));
}

/// A page may be sent as a second reference before the source knows that it is missing.
#[test]
fn a_second_answer_for_a_page_of_the_last_round_is_of_no_account() {
    let mut pair = Pair::agreed(1);
    assert_eq!(pair.carry(true, &[(2, 1)]), Work::Pages);
    pair.carry_round();
    pair.harvest(&[(2, 1)]);
    assert_eq!(pair.carry(true, &[(2, 1)]), Work::Pages);
    pair.carry_round();
    pair.harvest(&[]);
    pair.stop();
    assert_eq!(pair.carry(false, &[]), Work::Wait, "answers are due");
    pair.tell_source();
    assert_eq!(pair.carry(false, &[]), Work::Pages);
    assert_eq!(pair.batch.runs, [PageRange::new(2, 1)]);
    assert_eq!(pair.batch.whole, [PageIndex(2)]);
    assert!(matches!(pair.carry(false, &[]), Work::RoundEnd(_)));
    assert!(pair.target.has_all_pages());
}

#[test]
fn a_target_with_missing_pages_is_never_complete() {
    let mut pair = Pair::agreed(0);
    pair.carry(true, &[(2, 1)]);
    while !matches!(pair.carry(true, &[]), Work::RoundEnd(_)) {}
    // A source that hears nothing of it ends the last round without them.
    let last = Message::LastRound { round: 2 };
    pair.target.handle_message(NOW, last).unwrap();
    let error = pair.target.round_end(0, 2, ByteCount(28), NOW);
    assert!(matches!(error, Err(MigrationError::PeerMisbehaved(_))));
    assert!(!pair.target.has_all_pages());
}

/// A delta is made against what the source thinks that the target has.
#[test]
fn a_delta_does_not_make_up_for_a_missing_page() {
    let mut pair = Pair::agreed(5);
    pair.carry(true, &[(2, 1)]);
    let mut builder = PagesBuilder::default();
    builder.begin(2);
    builder.add_delta(PageIndex(2), &[0, 0]);
    let (head, data) = builder.finish();
    let body = [head, data].concat();
    pair.target
        .made(&PagesBody::decode(&body).unwrap(), &[], NOW);
    assert_eq!(pair.target.missing_pages(), PageCount(1));
    let whole = frame_of(2, &[PageRange::new(2, 1)], false);
    pair.target
        .made(&PagesBody::decode(&whole).unwrap(), &[], NOW);
    assert_eq!(pair.target.missing_pages(), PageCount(0));
}

#[test]
fn pages_cannot_be_missing_when_all_answers_have_come() {
    let mut pair = Pair::agreed(0);
    pair.carry_round();
    pair.tell_source();
    pair.harvest(&[]);
    pair.stop();
    pair.carry_round();
    pair.tell_source();
    let missing = Message::Missing(vec![PageRange::new(0, 1)]);
    assert!(pair.source.handle_message(NOW, missing).is_err());
}

#[test]
fn what_is_missing_is_given_back_when_the_migration_fails() {
    let mut pair = Pair::agreed(5);
    pair.carry(true, &[(2, 1)]);
    while !matches!(pair.carry(true, &[]), Work::RoundEnd(_)) {}
    pair.tell_source();
    pair.source.fail(MigrationError::Cancelled);
    let mut back = set(&[]);
    pair.source.undelivered(&mut back);
    assert_eq!(back, set(&[(2, 1)]));
}

#[test]
fn references_take_both_sides_to_agree() {
    for (wanted, offered) in [(None, Some(KEPT)), (Some(1000), None)] {
        let mut pair = Pair::new(5, wanted, offered);
        assert!(pair.source.dedup().is_none());
        assert!(pair.target.dedup_secret().is_none());
        assert_eq!(pair.target.fingerprint_demand(), FingerprintDemand::None);
        let chunk = FingerprintChunk {
            first: 0,
            fingerprints: vec![1],
        };
        for message in [
            Message::Fingerprints(chunk),
            Message::Missing(vec![PageRange::new(0, 1)]),
        ] {
            assert!(pair.source.handle_message(NOW, message).is_err());
        }
        assert_eq!(pair.source.next_work(NOW, 0, &mut pair.batch), Work::Pages);
        let body = frame_of(1, &[PageRange::new(0, 1)], true);
        let body = PagesBody::decode(&body).unwrap();
        assert!(pair.target.admit(0, &body).is_err());
    }
}

/// The last round sends no references: what they take says nothing of its length.
#[test]
fn a_round_of_references_does_not_promise_a_short_blackout() {
    let mut pair = Pair::agreed(5);
    pair.carry_round();
    pair.tell_source();
    pair.harvest(&[(0, 20)]);
    assert!(SEEN_BYTES_PER_PAGE.get() >= 4096.0);
}

#[test]
fn fingerprints_stay_within_what_the_source_has_room_for() {
    let mut pair = Pair::new(5, Some(10), Some(KEPT));
    assert_eq!(
        pair.target.fingerprint_demand(),
        FingerprintDemand::First(10)
    );
    assert_eq!(pair.source.dedup().unwrap().fingerprints.pages(), 10);
    let mut tell = |first, count| {
        let fingerprints = vec![5; count];
        let chunk = FingerprintChunk {
            first,
            fingerprints,
        };
        pair.source
            .handle_message(NOW, Message::Fingerprints(chunk))
    };
    assert!(tell(0, 10).is_ok());
    assert!(tell(5, 6).is_err());
    assert!(tell(1 << 40, 1).is_err());
    assert_eq!(pair.source.dedup().unwrap().fingerprints.told(), 10);
}

#[test]
fn a_target_cannot_miss_pages_that_there_are_not() {
    let mut pair = Pair::agreed(5);
    let missing = Message::Missing(vec![PageRange::new(PAGES - 1, 2)]);
    assert!(pair.source.handle_message(NOW, missing).is_err());
}

/// What a target says is bounded by what it was sent, however often it says it.
#[test]
fn a_target_cannot_miss_more_pages_than_were_sent() {
    let mut pair = Pair::agreed(5);
    let missing = |count| Message::Missing(vec![PageRange::new(0, count)]);
    let tell = |pair: &mut Pair, count| pair.source.handle_message(NOW, missing(count));
    assert!(tell(&mut pair, 1).is_err(), "nothing is sent yet");
    let mut pair = Pair::agreed(5);
    assert_eq!(pair.carry(true, &[]), Work::Pages);
    let sent: u64 = pair.batch.runs.iter().map(|run| run.count.0).sum();
    assert!(tell(&mut pair, sent).is_ok());
    assert!(tell(&mut pair, 1).is_err());
    assert_eq!(pair.source.report().dedup.missing, PageCount(sent));
    // Nor a run longer than a reference is.
    let mut pair = Pair::agreed(5);
    pair.carry_round();
    assert!(tell(&mut pair, 32).is_ok());
    let mut pair = Pair::agreed(5);
    pair.carry_round();
    assert!(tell(&mut pair, 33).is_err());
}

#[test]
fn a_page_that_is_missing_twice_counts_once() {
    let mut pair = Pair::agreed(5);
    let zeros = |first, count| frame_of(2, &[PageRange::new(first, count)], false);
    let mut made = |body: &[u8], missing: &[PageRange]| {
        let body = PagesBody::decode(body).unwrap();
        pair.target.made(&body, missing, NOW);
        pair.target.missing_pages()
    };
    let two = [PageRange::new(60, 10), PageRange::new(65, 10)];
    assert_eq!(made(&zeros(150, 1), &two), PageCount(15));
    assert_eq!(made(&zeros(64, 5), &[]), PageCount(10));
    assert_eq!(made(&zeros(64, 5), &[]), PageCount(10), "they are there");
    assert_eq!(made(&zeros(0, 200), &[]), PageCount(0));
}
