//! Batches per-frame send timings of a channel and reports them every 50 ms.
//!
//! A sample tells waiting for the link from waiting for the target. The target says how long its
//! channel waited for something to do; where it hardly waits it is the bottleneck, and to pack for
//! it would make it slower still. A closed receive window would tell less: a window closes while a
//! frame is placed, whoever is ahead, and one that is smaller than what the path holds limits a
//! connection of which the target reads everything at once.

use std::time::Duration;

use crate::codec::select::SendSample;
use crate::pipeline::clock::Clock;
use crate::transport::SendStats;
use crate::units::{ByteCount, Instant};
use crate::wire::Waited;

/// Time between two samples: to take one costs some 5 us.
const PERIOD: Duration = Duration::from_millis(50);

/// Time until the first one. Each comes after twice the time of the one before, so that much is
/// known early.
const FIRST_PERIOD: Duration = Duration::from_millis(2);

/// What a frame took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FrameTime {
    /// From reading its pages until it was written.
    pub(super) all: Duration,
    /// Processor time of that.
    pub(super) cpu: Duration,
    /// Of the writing, what was no processor time.
    pub(super) waited: Duration,
}

impl FrameTime {
    fn add(&mut self, frame: Self) {
        self.all += frame.all;
        self.cpu += frame.cpu;
        self.waited += frame.waited;
    }
}

/// How far the migration is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Bytes of frames that all channels have written.
    pub(super) sent: ByteCount,
    /// How long the target's channel waited, if it says.
    pub(super) target: Option<Waited>,
}

/// The samples of one channel.
#[derive(Debug)]
pub(super) struct SendSamples {
    period: Duration,
    /// How things stood at the last sample, at first when the first frame was written; `None`
    /// before.
    last: Option<Standing>,
    /// Sums over frames since the last sample, and the rests of a CPU limit.
    frames: FrameTime,
    rested: Duration,
    /// Share of its time that the target's thread was busy, as of its last word.
    target_busy: Option<f64>,
}

/// How things stood at a moment.
#[derive(Clone, Copy, Debug)]
struct Standing {
    progress: Progress,
    /// How long the thread had been without a processor.
    delay: Duration,
    /// For how long its connection had carried something.
    busy: Option<Duration>,
    /// When the processors' idle time was read last, and what it was.
    idle: (Instant, Option<Duration>),
}

impl SendSamples {
    /// Of a channel that has sent nothing.
    pub(super) fn new() -> Self {
        Self {
            period: FIRST_PERIOD,
            last: None,
            frames: FrameTime::default(),
            rested: Duration::ZERO,
            target_busy: None,
        }
    }

    /// The thread rested, to keep to a CPU limit.
    pub(super) fn rest(&mut self, rested: Duration) {
        self.rested += rested;
    }

    /// Takes in a frame that was written, at `now`, by the thread that calls. Returns a sample, if
    /// one is due, and for how much of the time that writing waited the target is the reason.
    pub(super) fn add(
        &mut self,
        now: Instant,
        frame: FrameTime,
        clock: &dyn Clock,
        stats: impl FnOnce() -> SendStats,
        progress: impl FnOnce() -> Progress,
    ) -> Option<(SendSample, Duration)> {
        let Some(last) = &mut self.last else {
            // What went before the first frame is not its doing.
            self.last = Some(Standing {
                progress: progress(),
                delay: clock.thread_delay(),
                busy: stats().busy,
                idle: (now, clock.idle()),
            });
            return None;
        };
        self.frames.add(frame);
        let elapsed = self.frames.all + self.rested;
        if elapsed < self.period {
            return None;
        }
        self.period = (self.period * 2).min(PERIOD);
        self.rested = Duration::ZERO;
        let frames = std::mem::take(&mut self.frames);
        let (stats, progress) = (stats(), progress());
        if let Some(busy) = target_busy(last.progress.target, progress.target) {
            self.target_busy = Some(busy);
        }
        let before = std::mem::replace(
            last,
            Standing {
                progress,
                delay: clock.thread_delay(),
                busy: stats.busy,
                idle: last.idle,
            },
        );
        let delayed = last.delay.saturating_sub(before.delay);
        let sample = SendSample {
            elapsed,
            cpu: frames.cpu,
            delayed,
            // Ready to run and without a processor, it did not wait for the link.
            waited: frames
                .waited
                .min(frames.all.saturating_sub(frames.cpu + delayed)),
            idle: last.idle_processors(now, clock),
            carried: before.busy.zip(last.busy).map(|(then, now)| {
                let carried = now.saturating_sub(then);
                carried.div_duration_f64(elapsed).min(1.0)
            }),
            cap: stats.rate_cap,
            sent: ByteCount(progress.sent.0.saturating_sub(before.progress.sent.0)),
            target_busy: self.target_busy,
        };
        Some((sample, frames.waited.mul_f64(sample.target_limited())))
    }
}

impl Standing {
    /// Processors that were idle since they were asked last, if that is long enough ago to tell.
    fn idle_processors(&mut self, now: Instant, clock: &dyn Clock) -> Option<f64> {
        let elapsed = now.since(self.idle.0);
        if elapsed < PERIOD {
            return None;
        }
        let (_, before) = std::mem::replace(&mut self.idle, (now, clock.idle()));
        let idle = self.idle.1?.saturating_sub(before?);
        Some(idle.div_duration_f64(elapsed))
    }
}

/// The share of its time that a channel was busy between two words of the target; `None` if it
/// said nothing.
fn target_busy(before: Option<Waited>, now: Option<Waited>) -> Option<f64> {
    let (before, now) = (before.unwrap_or_default(), now?);
    let elapsed = now.elapsed_us.checked_sub(before.elapsed_us)?;
    let waited = now.waited_us.saturating_sub(before.waited_us);
    (elapsed > 0).then(|| 1.0 - waited.min(elapsed) as f64 / elapsed as f64)
}

#[cfg(test)]
mod tests;
