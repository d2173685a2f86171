//! Thread time at both ends: what a byte takes beside the codec, and how much of it there is.

use super::SendSample;

/// What else than packing the source does, in nanoseconds of processor time before it is
/// measured: for a byte of pages, to read it and to look for zeros, and for a byte on the wire, to
/// send it by TCP, with its checksum.
const READ_NS: f64 = 0.2;
const SEND_NS: f64 = 0.3;

/// What else than unpacking the target does, likewise: to place a byte of pages, and to receive one
/// of the wire.
const PLACE_NS: f64 = 0.4;
const RECEIVE_NS: f64 = 0.4;

/// Least part of a processor that threads are taken to have.
const LEAST_FREE: f64 = 0.05;

/// Processors that are idle on average below which there is no room for more work.
const CROWDED: f64 = 0.25;

/// Time over which measurements are averaged.
const MEMORY_S: f64 = 0.2;

/// Work for a byte of pages, with each class of blocks packed in some way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Work {
    /// Nanoseconds of packing.
    pub(super) encode_ns: f64,
    /// Nanoseconds of unpacking.
    pub(super) decode_ns: f64,
    /// Bytes on the wire.
    pub(super) wire: f64,
}

/// The source's channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourceTime {
    channels: f64,
    /// The most processors that they may use.
    most: f64,
    /// Processors that they can have: those that they use, those that nobody does, and their
    /// share of the others while they wait for the link.
    free: f64,
    /// Processors that nobody uses, if known.
    idle: Option<f64>,
    /// Processor time of all but packing, over what it is taken to be at first.
    slowness: f64,
}

impl SourceTime {
    /// So many channels, which may use so many processors.
    pub(super) fn new(channels: u16, processors: f64) -> Self {
        let most = processors.min(channels.into());
        Self {
            channels: channels.into(),
            most,
            free: most,
            idle: None,
            slowness: 1.0,
        }
    }

    /// Takes in what one channel did, which spent `encode_ns` of its time to pack and sent `wire`
    /// bytes for `input` bytes of blocks.
    pub(super) fn add(&mut self, sample: &SendSample, encode_ns: f64, input: f64, wire: f64) {
        let weight = weight(sample);
        let (cpu, delayed) = (sample.cpu.as_secs_f64(), sample.delayed.as_secs_f64());
        if input > 0.0 {
            let expected = input * READ_NS + wire * SEND_NS;
            let slowness = (cpu * 1e9 - encode_ns).max(0.0) / expected;
            self.slowness += (slowness - self.slowness) * weight;
        }
        if let Some(idle) = sample.idle {
            let before = self.idle.unwrap_or(idle);
            self.idle = Some(before + (idle - before) * weight);
        }
        if cpu > 0.0 {
            // Of a processor, while it has something to do.
            let gets = cpu / (cpu + delayed);
            let share = self.idle.map_or(gets, |idle| {
                let uses = cpu / sample.elapsed.as_secs_f64();
                // Less is certain while source and target wait in turn: each may want the processor
                // that the other one has.
                let link_waits = sample.link_waits(self.is_crowded()).powi(2);
                uses + idle / self.channels + link_waits * gets
            });
            self.free += (share * self.channels - self.free) * weight;
        }
    }

    /// Whether this machine has no room for more work, as far as is known.
    pub(super) fn is_crowded(&self) -> bool {
        self.idle.is_none_or(|idle| idle < CROWDED)
    }

    /// Processor time for a byte of pages.
    pub(super) fn cpu_ns(&self, work: Work) -> f64 {
        self.slowness * (READ_NS + work.wire * SEND_NS) + work.encode_ns
    }

    /// Time for a byte of pages, of all channels together.
    pub(super) fn time_ns(&self, work: Work) -> f64 {
        self.cpu_ns(work) / self.free.min(self.most).max(LEAST_FREE)
    }
}

/// The target's channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetTime {
    channels: f64,
    /// Its time over what it is taken to be at first; `None` as long as it does not say.
    slowness: Option<f64>,
}

impl TargetTime {
    /// So many channels.
    pub(super) fn new(channels: u16) -> Self {
        Self {
            channels: channels.into(),
            slowness: None,
        }
    }

    /// Takes in how busy one channel was with `input` bytes of blocks, each of which took `work`.
    pub(super) fn add(&mut self, sample: &SendSample, input: f64, work: Work) {
        let Some(busy) = sample.target_busy.filter(|_| input > 0.0) else {
            return;
        };
        let busy_ns = busy * sample.elapsed.as_secs_f64() * 1e9;
        let slowness = busy_ns / (input * Self::prior_ns(work));
        let before = self.slowness.unwrap_or(1.0);
        self.slowness = Some(before + (slowness - before) * weight(sample));
    }

    /// Thread time for a byte of pages.
    pub(super) fn cpu_ns(&self, work: Work) -> f64 {
        Self::prior_ns(work) * self.slowness.unwrap_or(1.0)
    }

    /// Time for a byte of pages, of all channels together; 0 as long as it is unknown.
    pub(super) fn time_ns(&self, work: Work) -> f64 {
        self.slowness
            .map_or(0.0, |_| self.cpu_ns(work) / self.channels)
    }

    fn prior_ns(work: Work) -> f64 {
        PLACE_NS + work.wire * RECEIVE_NS + work.decode_ns
    }
}

/// The weight of a sample in an average.
fn weight(sample: &SendSample) -> f64 {
    1.0 - (-sample.elapsed.as_secs_f64() / MEMORY_S).exp()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RAW: Work = Work {
        encode_ns: 0.0,
        decode_ns: 0.0,
        wire: 1.0,
    };

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// After many samples like this one, of a channel of two that sends 10 MB raw in each.
    fn source_after(sample: SendSample) -> SourceTime {
        let mut source = SourceTime::new(2, 4.0);
        for _ in 0..100 {
            source.add(&sample, 0.0, 10e6, 10e6);
        }
        source
    }

    fn about(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.01
    }

    #[test]
    fn what_a_byte_takes_is_measured() {
        let source = source_after(SendSample {
            elapsed: millis(50),
            cpu: millis(20),
            ..SendSample::default()
        });
        assert!(about(source.cpu_ns(RAW), 2.0), "{source:?}");
        assert!(
            about(source.time_ns(RAW), 1.0),
            "two processors: {source:?}"
        );
        let half = Work {
            wire: 0.5,
            encode_ns: 3.0,
            ..RAW
        };
        assert!(
            about(source.cpu_ns(half), 3.0 + 2.0 * 0.35 / 0.5),
            "{source:?}"
        );
    }

    #[test]
    fn processors_are_those_that_are_used_or_idle() {
        let sample = SendSample {
            elapsed: millis(50),
            cpu: millis(20),
            idle: Some(0.4),
            ..SendSample::default()
        };
        // Of two channels: 0.4 each, and 0.4 that nobody uses.
        assert!(about(source_after(sample).free, 1.2));
        let none_idle = SendSample {
            idle: Some(0.0),
            delayed: millis(20),
            ..sample
        };
        assert!(about(source_after(none_idle).free, 0.8));
    }

    /// Others keep all processors busy, and the channel waits for a slow link: it would get one
    /// for a part of that time, as it does for its work.
    #[test]
    fn a_channel_that_waits_for_the_link_can_have_its_share_of_a_busy_machine() {
        let waits = SendSample {
            elapsed: millis(50),
            cpu: millis(5),
            delayed: millis(5),
            waited: millis(40),
            idle: Some(0.0),
            target_busy: Some(0.1),
            ..SendSample::default()
        };
        // 0.1 that each of two uses, and half of what is certain of the 0.7 in which both ends wait.
        let source = source_after(waits);
        assert!(source.is_crowded());
        assert!(about(source.free, 2.0 * (0.1 + 0.49 / 2.0)), "{source:?}");
        let slow_target = SendSample {
            target_busy: Some(0.9),
            ..waits
        };
        assert!(about(source_after(slow_target).free, 0.2));
    }

    #[test]
    fn a_limit_of_the_processors_is_the_most_there_is() {
        let mut source = SourceTime::new(2, 0.5);
        let sample = SendSample {
            elapsed: millis(50),
            cpu: millis(12),
            idle: Some(1.5),
            ..SendSample::default()
        };
        for _ in 0..100 {
            source.add(&sample, 0.0, 6e6, 6e6);
        }
        assert!(about(source.time_ns(RAW), 2.0 / 0.5), "{source:?}");
    }

    #[test]
    fn a_target_that_says_nothing_limits_nothing() {
        let mut target = TargetTime::new(2);
        let silent = SendSample {
            elapsed: millis(50),
            ..SendSample::default()
        };
        target.add(&silent, 10e6, RAW);
        assert_eq!(target.time_ns(RAW), 0.0);
        let busy = SendSample {
            target_busy: Some(0.8),
            ..silent
        };
        for _ in 0..100 {
            target.add(&busy, 10e6, RAW);
        }
        assert!(about(target.cpu_ns(RAW), 4.0), "{target:?}");
        assert!(about(target.time_ns(RAW), 2.0), "{target:?}");
    }
}
