//! Whether looking for pages that the target has is worth its time.
//!
//! A look costs the fingerprint of a page. A hit replaces the time that a page takes which is
//! sent whole (encoding, sending, and waiting for the link) by that of an identity. So a frame
//! is looked through if
//!
//! ```text
//!     share of hits * (time of a whole page - time of an identity)  >  time of a fingerprint
//! ```
//!
//! On a link of 1 Gbit/s a whole page takes 33 us, and one hit in a hundred pays; on one that
//! carries pages as fast as they are read, it takes about half of them. Where it does not pay, a
//! frame in sixteen is looked through all the same, to find out when it does again.
//!
//! Pure: times are arguments.

use std::time::Duration;

use crate::codec::dedup::DedupSetting;

/// Nanoseconds for the fingerprint of a page and the look for it: XXH3 at 12 GB/s, and two or
/// three loads from memory.
const LOOK_NS: f64 = 500.0;

/// Nanoseconds for a page's share of an identity, on either side: BLAKE3 at 1.8 to 5 GB/s.
const IDENTITY_NS: f64 = 1500.0;

/// Frames of which one is looked through where it does not pay.
const PROBE_FRAMES: u32 = 16;

/// Share of the newest frame in what is known.
const NEWEST: f64 = 1.0 / 8.0;

/// Estimates of one channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct DedupGate {
    setting: DedupSetting,
    /// Nanoseconds of a page that is sent whole; `None` until there was one.
    whole_ns: Option<f64>,
    /// Share of pages looked for that were found; `None` until some were.
    hits: Option<f64>,
    /// Frames since the last that was looked through.
    blind: u32,
}

/// What a frame of pages was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// Pages that were looked for.
    pub(super) looks: u64,
    /// Those that were found.
    pub(super) hits: u64,
    /// Pages that were sent whole.
    pub(super) whole: u64,
}

impl DedupGate {
    pub(super) fn new(setting: DedupSetting) -> Self {
        Self {
            setting,
            whole_ns: None,
            hits: None,
            blind: 0,
        }
    }

    /// Whether to look through the next frame.
    pub(super) fn look(&mut self) -> bool {
        let pays = match (self.setting, self.hits, self.whole_ns) {
            (DedupSetting::Off, ..) => return false,
            (DedupSetting::On, ..) | (_, None, _) => true,
            // All were found so far.
            (_, Some(_), None) => true,
            (_, Some(hits), Some(whole_ns)) => hits * (whole_ns - IDENTITY_NS) > LOOK_NS,
        };
        self.blind += 1;
        let look = pays || self.blind >= PROBE_FRAMES;
        if look {
            self.blind = 0;
        }
        look
    }

    /// A frame has taken `time` from the reading of its pages until it was sent.
    pub(super) fn sent(&mut self, frame: Looked, time: Duration) {
        if frame.looks > 0 {
            blend(&mut self.hits, frame.hits as f64 / frame.looks as f64);
        }
        if frame.whole > 0 {
            let looking = frame.looks as f64 * LOOK_NS + frame.hits as f64 * IDENTITY_NS;
            let rest = (time.as_secs_f64() * 1e9 - looking).max(0.0);
            blend(&mut self.whole_ns, rest / frame.whole as f64);
        }
    }
}

fn blend(known: &mut Option<f64>, newest: f64) {
    *known = Some(known.map_or(newest, |known| known + (newest - known) * NEWEST));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames looked through of 160, when a whole page takes so long and so many of 128 are hits.
    fn looked_of_160(setting: DedupSetting, whole: Duration, hits: u64) -> u32 {
        let (mut worth, mut looked) = (DedupGate::new(setting), 0);
        for _ in 0..160 {
            let looks = worth.look();
            looked += u32::from(looks);
            let hits = if looks { hits } else { 0 };
            let frame = Looked {
                looks: if looks { 128 } else { 0 },
                hits,
                whole: 128 - hits,
            };
            let looking = Duration::from_nanos(frame.looks * 500 + hits * 1500);
            let time = looking + whole * u32::try_from(frame.whole).unwrap();
            worth.sent(frame, time);
        }
        looked
    }

    #[test]
    fn few_hits_pay_on_a_slow_link_and_many_on_a_fast_one() {
        let (slow, fast) = (Duration::from_micros(33), Duration::from_nanos(2500));
        let auto = DedupSetting::Auto;
        assert_eq!(looked_of_160(auto, slow, 128), 160);
        assert_eq!(looked_of_160(auto, slow, 4), 160);
        assert_eq!(looked_of_160(auto, fast, 120), 160);
        assert!(looked_of_160(auto, fast, 13) <= 12, "probes alone");
        assert!(looked_of_160(auto, slow, 0) <= 12, "probes alone");
    }

    #[test]
    fn a_fixed_setting_is_kept() {
        let fast = Duration::from_nanos(1);
        assert_eq!(looked_of_160(DedupSetting::On, fast, 0), 160);
        assert_eq!(looked_of_160(DedupSetting::Off, fast, 128), 0);
    }

    #[test]
    fn hits_that_come_later_are_found_by_a_probe() {
        let mut worth = DedupGate::new(DedupSetting::Auto);
        let slow = Duration::from_micros(33 * 128);
        let none = Looked {
            looks: 128,
            hits: 0,
            whole: 128,
        };
        worth.sent(none, slow);
        let blind = std::iter::repeat_with(|| worth.look()).take_while(|look| !look);
        assert_eq!(blind.count() as u32, PROBE_FRAMES - 1);
        worth.sent(
            Looked {
                looks: 128,
                hits: 128,
                whole: 0,
            },
            Duration::from_micros(200),
        );
        assert!(worth.look());
    }
}
