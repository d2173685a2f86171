//! Samples of frames whose times are invented.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::units::Rate;

const BEGIN: Instant = Instant(1_000_000_000);

/// A clock whose thread was without a processor, and whose processors were idle, for so many
/// milliseconds.
#[derive(Default)]
struct Told {
    delay: AtomicU64,
    idle: AtomicU64,
}

impl Clock for Told {
    fn now(&self) -> Instant {
        BEGIN
    }

    fn thread_delay(&self) -> Duration {
        millis(self.delay.load(Ordering::Relaxed))
    }

    fn idle(&self) -> Option<Duration> {
        Some(millis(self.idle.load(Ordering::Relaxed)))
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A frame that took 50 ms: 20 of a processor, and 25 of waiting.
const FRAME: FrameTime = FrameTime {
    all: PERIOD,
    cpu: Duration::from_millis(20),
    waited: Duration::from_millis(25),
};

/// The target's word after so many frames, in which it waited for so many milliseconds.
fn progress(frames: u64, waited_ms: u64) -> Progress {
    Progress {
        sent: ByteCount(frames * 1_000_000),
        target: Some(Waited {
            channel: 0,
            waited_us: waited_ms * 1000,
            elapsed_us: frames * 50_000,
        }),
    }
}

/// What becomes of so many frames of 1 ms each.
fn samples_of(samples: &mut SendSamples, frames: u64) -> Vec<Duration> {
    let frame = FrameTime {
        all: millis(1),
        ..FrameTime::default()
    };
    let clock = Told::default();
    let add = |frame_number: u64| {
        let now = BEGIN.after(millis(frame_number));
        let stats = SendStats::default;
        samples.add(now, frame, &clock, stats, Progress::default)
    };
    let samples = (0..frames).filter_map(add);
    samples.map(|(sample, _)| sample.elapsed).collect()
}

#[test]
fn samples_come_soon_and_then_every_50_ms() {
    let mut samples = SendSamples::new();
    let taken = samples_of(&mut samples, 170);
    assert_eq!(taken, [2, 4, 8, 16, 32, 50, 50].map(millis));
    samples.rest(millis(40));
    assert_eq!(samples_of(&mut samples, 3), [millis(50)], "rests count");
}

#[test]
fn a_sample_is_what_happened_since_the_last_one() {
    let (clock, mut samples) = (Told::default(), SendSamples::new());
    clock.delay.store(700, Ordering::Relaxed);
    clock.idle.store(3000, Ordering::Relaxed);
    let mut add = |frames: u64, busy_ms: u64, progress: Progress| {
        let stats = || SendStats {
            busy: Some(millis(busy_ms)),
            rate_cap: Some(Rate(1000)),
            ..SendStats::default()
        };
        let now = BEGIN.after(PERIOD * frames as u32);
        let (sample, _) = samples.add(now, FRAME, &clock, stats, || progress)?;
        Some(sample)
    };
    assert_eq!(
        add(0, 70, progress(7, 100)),
        None,
        "the first frame is the beginning"
    );
    let first = SendSample {
        elapsed: PERIOD,
        cpu: millis(20),
        delayed: Duration::ZERO,
        waited: millis(25),
        idle: Some(0.0),
        carried: Some(0.5),
        cap: Some(Rate(1000)),
        sent: ByteCount(1_000_000),
        target_busy: Some(0.5),
    };
    assert_eq!(add(1, 95, progress(8, 125)), Some(first));
    clock.delay.fetch_add(20, Ordering::Relaxed);
    clock.idle.fetch_add(75, Ordering::Relaxed);
    let second = SendSample {
        delayed: millis(20),
        waited: millis(10),
        idle: Some(1.5),
        carried: Some(1.0),
        sent: ByteCount(2_000_000),
        target_busy: Some(0.25),
        ..first
    };
    assert_eq!(add(2, 180, progress(10, 200)), Some(second));
}

#[test]
fn a_target_that_hardly_waits_is_the_reason() {
    let (clock, mut samples) = (Told::default(), SendSamples::new());
    let mut reason = |progress: Progress| {
        let stats = SendStats::default;
        let sample = samples.add(BEGIN, FRAME, &clock, stats, || progress)?;
        Some((sample.0.target_limited(), sample.1.as_millis()))
    };
    assert_eq!(reason(progress(0, 0)), None, "nothing went before");
    assert_eq!(reason(progress(1, 30)), Some((0.0, 0)));
    assert_eq!(reason(progress(2, 30)), Some((1.0, 25)));
    let (limited, because) = reason(progress(3, 35)).unwrap();
    assert!((limited - 0.5).abs() < 1e-9 && because == 12, "{limited}");
    let (limited, _) = reason(progress(3, 35)).unwrap();
    assert!((limited - 0.5).abs() < 1e-9, "as of its last word");
}

#[test]
fn a_target_that_says_nothing_is_not_the_reason() {
    let (clock, mut samples) = (Told::default(), SendSamples::new());
    let mut add = || {
        let stats = SendStats::default;
        samples.add(BEGIN, FRAME, &clock, stats, Progress::default)
    };
    assert_eq!(add(), None);
    let (sample, because) = add().unwrap();
    assert_eq!((sample.target_busy, because), (None, Duration::ZERO));
    assert_eq!(sample.carried, None, "nor does the connection");
    assert_eq!(sample.idle, None, "too soon to tell");
}
