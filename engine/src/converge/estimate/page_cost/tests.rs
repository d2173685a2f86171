use super::*;
use crate::units::Instant;

const TRIP: Duration = Duration::from_millis(1);

/// On a tenth of the rate the old time of a page does not count, but its bytes do.
#[test]
fn on_another_link_the_link_decides_until_there_is_a_round() {
    let mut costs = PageCosts::default();
    for _ in 0..3 {
        costs.round(RoundSent {
            bytes: ByteCount(100_000),
            ..round(1000, 1)
        });
    }
    costs.forget_times();
    let left = PageCount(1000);
    assert_eq!(costs.bytes(left), 100.0);
    let mut link = LinkRate::default();
    link.begin(Instant(0));
    link.placed(Instant(1_000_000_000), ByteCount(1_000_000));
    let page = costs.time(left, &link, TRIP).unwrap();
    assert!((page.seconds - 100e-6).abs() < 1e-9, "{page:?}");
    assert!(page.sigma >= ONE_SIGMA, "{page:?}");
    costs.round(round(1000, 20));
    let page = costs.time(left, &link, TRIP).unwrap();
    assert!(page.seconds < 50e-6, "{page:?}");
}

fn round(raw: u64, page_us: u64) -> RoundSent {
    RoundSent {
        pages: PageCount(raw),
        zero: PageCount(0),
        delta: PageCount(0),
        bytes: ByteCount(raw * 4100),
        time: TRIP + Duration::from_micros(raw * page_us),
    }
}

/// A link of so many bytes a second.
fn link(rate: u64) -> LinkRate {
    let mut link = LinkRate::default();
    link.begin(Instant(0));
    link.placed(Instant(1_000_000_000), ByteCount(rate));
    link
}

fn fast() -> LinkRate {
    link(4_100_000_000)
}

#[test]
fn later_rounds_are_believed_and_the_first_is_not() {
    let mut costs = PageCosts::default();
    assert_eq!(costs.time(PageCount(100), &LinkRate::default(), TRIP), None);
    costs.round(round(100_000, 1));
    let guess = costs.time(PageCount(1000), &fast(), TRIP).unwrap();
    assert_eq!((guess.seconds, guess.sigma), (SCATTERED, GUESS_SIGMA));
    costs.round(round(2000, 7));
    let one = costs.time(PageCount(2000), &fast(), TRIP).unwrap();
    assert!((one.seconds - 7e-6).abs() < 1e-8, "{one:?}");
    assert!(one.sigma < guess.sigma);
    costs.round(round(1800, 7));
    costs.round(round(1500, 8));
    let three = costs.time(PageCount(1500), &fast(), TRIP).unwrap();
    assert!((7e-6..8e-6).contains(&three.seconds), "{three:?}");
    assert!(three.sigma < one.sigma, "{three:?}");
    let far = costs.time(PageCount(50), &fast(), TRIP).unwrap();
    assert!(far.sigma > three.sigma, "{far:?}");
}

#[test]
fn a_round_that_was_held_up_decides_neither_the_time_nor_its_spread() {
    let mut costs = PageCosts::default();
    for page_us in [1, 7, 7, 400, 7, 8] {
        costs.round(round(100, page_us));
    }
    // And one that came back sooner than a ping.
    costs.round(RoundSent {
        time: TRIP / 2,
        ..round(40, 1)
    });
    let time = costs.time(PageCount(100), &fast(), TRIP).unwrap();
    assert!((7e-6..9e-6).contains(&time.seconds), "{time:?}");
    assert!(time.sigma < 0.8, "{time:?}");
}

#[test]
fn a_slow_link_is_more_certain_than_a_guess() {
    let mut costs = PageCosts::default();
    costs.round(round(1000, 40));
    let slow = costs.time(PageCount(10), &link(100_000_000), TRIP).unwrap();
    assert!((ONE_SIGMA..GUESS_SIGMA).contains(&slow.sigma), "{slow:?}");
    assert!((slow.seconds - 41e-6).abs() < 1e-6, "{slow:?}");
}

#[test]
fn bytes_are_those_of_pages_that_come_again() {
    let mut costs = PageCosts::default();
    costs.round(RoundSent {
        pages: PageCount(10_000),
        zero: PageCount(9000),
        bytes: ByteCount(4_110_000),
        ..round(0, 0)
    });
    assert!((costs.bytes(PageCount(1)) - 4110.0).abs() < 10.0);
    assert_eq!(costs.delta_share(), None);
    costs.round(RoundSent {
        pages: PageCount(1000),
        delta: PageCount(900),
        bytes: ByteCount(500_000),
        ..round(0, 0)
    });
    assert!((costs.bytes(PageCount(1)) - 500.0).abs() < 1.0);
    assert_eq!(costs.delta_share(), Some(0.9));
}

#[test]
fn rounds_of_nothing_say_nothing() {
    let mut costs = PageCosts::default();
    costs.round(round(1000, 1));
    for _ in 0..20 {
        costs.round(round(0, 0));
    }
    costs.round(round(3, 1));
    let guess = costs.time(PageCount(3), &fast(), TRIP).unwrap();
    assert_eq!(guess.sigma, GUESS_SIGMA);
}
