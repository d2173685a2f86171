//! What sending took, gathered until it is worth to tell the chooser of codecs.
//!
//! Where most pages are zero a frame takes 100 us and is a few bytes; to ask for each how long the
//! thread was without a processor would be a hundredth of its time.

use std::time::Duration;

use super::encode::Sending;
use crate::pipeline::clock::Clock;
use crate::transport::SendQueue;
use crate::units::Instant;

/// Time after which the chooser is told: five frames of raw pages at 10 Gbit/s. To ask for the delay
/// takes 1 to 3 us.
const TOGETHER: Duration = Duration::from_millis(2);

/// Waiting of less than this part of the work is not worth to be told from a lack of processors.
const LITTLE: u32 = 32;

/// Sums over frames.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// When the reading of the first began; `None` if there is none.
    since: Option<Instant>,
    encode_cpu: Duration,
    send_cpu: Duration,
    /// What took longer before the writing than the work: nothing there can wait.
    held_up: Duration,
    /// What the writing took longer than the work.
    waited: Duration,
    /// Time without a processor, up to the last look at it, and how much of it since then was not
    /// in writing.
    delay: Duration,
    held_up_since: Duration,
    /// Processor time of frames without blocks, since the last time.
    besides: Duration,
}

impl Untold {
    /// Adds a frame whose reading began at `begun`: what it took before the writing, and the
    /// writing, and the processor time of both.
    pub(super) fn add(
        &mut self,
        begun: Instant,
        before: Duration,
        writing: Duration,
        (encode_cpu, send_cpu): (Duration, Duration),
    ) {
        self.since.get_or_insert(begun);
        let held_up = before.saturating_sub(encode_cpu);
        self.encode_cpu += encode_cpu;
        self.send_cpu += send_cpu;
        self.held_up += held_up;
        self.held_up_since += held_up;
        self.waited += writing.saturating_sub(send_cpu);
    }

    /// Passes over a frame without blocks, as [`add`](Self::add) has it: one of zeros alone says
    /// nothing of codecs, and is too short to wait for the link. The link may idle meanwhile.
    pub(super) fn pass(
        &mut self,
        before: Duration,
        writing: Duration,
        (encode_cpu, send_cpu): (Duration, Duration),
    ) {
        let delayed = before.saturating_sub(encode_cpu) + writing.saturating_sub(send_cpu);
        self.held_up_since += delayed;
        self.besides += encode_cpu + send_cpu;
    }

    /// Whether it is time to tell.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.since(since) >= TOGETHER)
    }

    /// The sums, up to `done`, which begin anew. To be called by the thread that did the work.
    pub(super) fn tell(
        &mut self,
        clock: &dyn Clock,
        queue: Option<SendQueue>,
        done: Instant,
    ) -> Sending {
        let (encode_cpu, send_cpu) = (self.encode_cpu, self.send_cpu);
        let (mut waited, mut delayed) = (self.waited, self.held_up);
        if waited * LITTLE > encode_cpu + send_cpu {
            // Without a processor it waited for none of the two that packing could help.
            let before = std::mem::replace(&mut self.delay, clock.thread_delay());
            let held_up = std::mem::take(&mut self.held_up_since);
            let writing = self.delay.saturating_sub(before).saturating_sub(held_up);
            waited = waited.saturating_sub(writing);
            delayed += self.waited - waited;
        }
        let besides = self.besides;
        *self = Self {
            delay: self.delay,
            held_up_since: self.held_up_since,
            ..Self::default()
        };
        Sending {
            encode_cpu,
            delayed,
            send_cpu,
            waited,
            besides,
            queue,
            done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A clock whose thread was without a processor for so many microseconds.
    struct Delayed(AtomicU64);

    impl Clock for Delayed {
        fn now(&self) -> Instant {
            Instant(1)
        }

        fn thread_delay(&self) -> Duration {
            micros(self.0.load(Ordering::Relaxed))
        }
    }

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn frames_are_told_of_together_and_once() {
        let begin = Instant(1_000_000_000);
        let mut untold = Untold::default();
        untold.pass(micros(70), micros(10), (micros(60), micros(5)));
        assert!(!untold.is_due(begin.after(Duration::from_secs(1))));
        for frame in 0..3u32 {
            let begun = begin.after(TOGETHER / 3 * frame);
            assert!(!untold.is_due(begun));
            untold.add(begun, micros(80), micros(5), (micros(80), micros(5)));
        }
        let done = begin.after(TOGETHER);
        assert!(untold.is_due(done));
        let clock = Delayed(AtomicU64::new(0));
        let sending = untold.tell(&clock, None, done);
        assert_eq!(sending.encode_cpu, micros(240));
        assert_eq!(sending.send_cpu, micros(15));
        assert_eq!(sending.waited + sending.delayed, Duration::ZERO);
        assert_eq!(sending.besides, micros(65));
        assert!(!untold.is_due(done.after(TOGETHER)));
        let nothing = untold.tell(&clock, None, done);
        assert_eq!(nothing.encode_cpu + nothing.besides, Duration::ZERO);
    }

    #[test]
    fn what_others_had_the_processor_for_is_not_waiting_even_if_it_was_not_looked_at() {
        let clock = Delayed(AtomicU64::new(0));
        let mut untold = Untold::default();
        // 40 us without a processor before the writing, which did not wait: nobody looked.
        untold.add(
            Instant(1),
            micros(140),
            micros(10),
            (micros(100), micros(10)),
        );
        clock.0.store(40, Ordering::Relaxed);
        let sending = untold.tell(&clock, None, Instant(1));
        assert_eq!((sending.delayed, sending.waited), (micros(40), micros(0)));
        // 30 us more before the writing, and 50 of the 90 us in it.
        untold.add(
            Instant(1),
            micros(130),
            micros(100),
            (micros(100), micros(10)),
        );
        clock.0.store(120, Ordering::Relaxed);
        let sending = untold.tell(&clock, None, Instant(1));
        assert_eq!((sending.delayed, sending.waited), (micros(80), micros(40)));
    }
}
