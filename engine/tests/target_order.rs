//! The target machine when connections overtake each other: control and data have no order
//! between them.

use pagelift_engine::memory::{Layout, Region};
use pagelift_engine::migration::{Target, TargetConfig, TargetStep};
use pagelift_engine::units::{ByteCount, Instant, PageCount};
use pagelift_engine::wire::{Encodings, Hello, Message, OLDEST_VERSION, SessionId, VERSION};

const NOW: Instant = Instant(0);
const SESSION: SessionId = SessionId(7);

/// A target in its first round, with two data channels.
fn receiving() -> Target {
    let layout = Layout::new(vec![Region {
        name: "ram".into(),
        pages: PageCount(16),
        backing_page: ByteCount(4096),
    }]);
    let layout = layout.unwrap();
    let config = TargetConfig {
        layout: layout.clone(),
        files: Vec::new(),
        persistent: Vec::new(),
        properties: Vec::new(),
        dedup: None,
        reads: Encodings::readable(),
    };
    let mut target = Target::new(config, NOW);
    let hello = Hello {
        versions: (OLDEST_VERSION, VERSION),
        session: SESSION,
        channels: 2,
        verify: false,
        dedup: None,
        layout,
        files: Vec::new(),
        persistent: Vec::new(),
        properties: Vec::new(),
        needs: Encodings::none(),
    };
    target.handle_message(NOW, Message::Hello(hello)).unwrap();
    assert!(matches!(target.poll(NOW), TargetStep::Prepare));
    target.prepared(NOW);
    for channel in 0..2 {
        target.join(channel).unwrap();
    }
    target
}

fn end_round(target: &mut Target, round: u32) {
    for channel in 0..2 {
        target
            .round_end(channel, round, ByteCount(28), NOW)
            .unwrap();
    }
}

fn last_round(target: &mut Target, round: u32) -> bool {
    target
        .handle_message(NOW, Message::LastRound { round })
        .is_ok()
}

#[test]
fn the_last_round_may_be_announced_before_and_after_its_pages() {
    let mut before = receiving();
    end_round(&mut before, 1);
    assert!(last_round(&mut before, 2));
    assert!(!before.has_all_pages());
    end_round(&mut before, 2);
    assert!(before.has_all_pages());

    let mut after = receiving();
    end_round(&mut after, 1);
    end_round(&mut after, 2);
    assert!(!after.has_all_pages());
    assert!(last_round(&mut after, 2));
    assert!(after.has_all_pages());
}

#[test]
fn a_last_round_that_is_long_over_is_a_fault() {
    let mut target = receiving();
    assert!(!last_round(&mut target, 0));
    let mut target = receiving();
    end_round(&mut target, 1);
    end_round(&mut target, 2);
    assert!(!last_round(&mut target, 1));
}
