//! Applies the policy's throttle to the guest, with a share for each vCPU where their writes are
//! counted.
//!
//! The vCPUs are sampled at every harvest and, while [`VcpuThrottle`] wants it, between harvests;
//! the guest's [`Throttler`] is called when a share has changed.

use crate::converge::{ThrottleResponse, ThrottleShare, VcpuSample, VcpuThrottle};
use crate::dirty::DirtySource;
use crate::guest::{GuestError, SourceGuest, Throttler};
use crate::units::Instant;

/// The throttle of one migration.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    vcpus: VcpuThrottle,
    sampled_at: Instant,
    /// Shares that the guest's throttler was given last; empty: one for all.
    applied: Vec<ThrottleShare>,
}

impl Throttle {
    /// The policy wants `share`, and no vCPU throttled by more than `most`.
    pub(super) fn want(
        &mut self,
        share: ThrottleShare,
        most: ThrottleShare,
        guest: &mut dyn SourceGuest,
    ) -> Result<(), GuestError> {
        self.vcpus.want(share, most);
        match self.vcpus.shares() {
            None => {
                self.applied.clear();
                apply(guest, |throttler| throttler.throttle(share))
            }
            Some(_) => self.apply(guest),
        }
    }

    /// Takes a sample: tracking has begun, or the dirty log was harvested, at the end of a round or
    /// before.
    pub(super) fn sample(
        &mut self,
        now: Instant,
        round_ended: bool,
        guest: &mut dyn SourceGuest,
        dirty: &mut dyn DirtySource,
    ) -> Result<(), GuestError> {
        self.sampled_at = now;
        if let Some(ran) = guest.throttler().and_then(Throttler::vcpu_times) {
            self.vcpus.sample(VcpuSample {
                now,
                ran,
                written_by: dirty.written_by(),
                round_ended,
            });
        }
        self.apply(guest)
    }

    /// Takes a sample if it is time for one between harvests. Gives the time of the next one.
    pub(super) fn sample_if_due(
        &mut self,
        now: Instant,
        guest: &mut dyn SourceGuest,
        dirty: &mut dyn DirtySource,
    ) -> Result<Option<Instant>, GuestError> {
        if self.next().is_some_and(|next| now >= next) {
            self.sample(now, false, guest, dirty)?;
        }
        Ok(self.next())
    }

    /// The share for all that would have had the effect of the shares in force over the last round;
    /// `None`: it was one share for all.
    pub(super) fn effect(&self) -> Option<ThrottleShare> {
        self.vcpus.effect()
    }

    /// How the guest's work depends on its throttle, as far as the times of its vCPUs tell.
    pub(super) fn response(&self) -> ThrottleResponse {
        self.vcpus.response()
    }

    /// The guest stands still: no throttle is in force, and no sample is due.
    pub(super) fn stopped(&mut self) {
        *self = Self::default();
    }

    fn next(&self) -> Option<Instant> {
        let pause = self.vcpus.sample_after()?;
        Some(self.sampled_at.after(pause))
    }

    /// Has the guest's throttler apply what has changed.
    fn apply(&mut self, guest: &mut dyn SourceGuest) -> Result<(), GuestError> {
        match self.vcpus.shares() {
            Some(shares) if shares != self.applied => {
                self.applied = shares.to_vec();
                apply(guest, |throttler| throttler.throttle_vcpus(&self.applied))
            }
            None if !self.applied.is_empty() => {
                self.applied.clear();
                apply(guest, |throttler| throttler.throttle(self.vcpus.wanted()))
            }
            _ => Ok(()),
        }
    }
}

/// Has the guest's throttler act. A guest that has none runs on at full speed.
fn apply(
    guest: &mut dyn SourceGuest,
    act: impl FnOnce(&mut dyn Throttler) -> Result<(), GuestError>,
) -> Result<(), GuestError> {
    guest.throttler().map_or(Ok(()), act)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dirty::{ManualTracker, VcpuMarker};
    use crate::memory::PageBitmap;
    use crate::units::{PageCount, PageRange};

    const PAGES: u64 = 1 << 20;

    /// The first vCPU computes, the second writes; each as long as it is let.
    struct Guest {
        markers: Vec<VcpuMarker>,
        ran: Vec<Duration>,
        shares: Vec<ThrottleShare>,
        next_page: u64,
        tells: bool,
    }

    impl Guest {
        fn run(&mut self, time: Duration) {
            for (ran, share) in self.ran.iter_mut().zip(&self.shares) {
                *ran += share.guest_time(time);
            }
            let time = self.shares[1].guest_time(time);
            let pages = (time.as_secs_f64() * 50_000.0) as u64;
            self.markers[1].mark(PageRange::new(self.next_page, pages));
            self.next_page = (self.next_page + pages) % (PAGES / 2);
        }
    }

    impl Throttler for Guest {
        fn throttle(&mut self, share: ThrottleShare) -> Result<(), GuestError> {
            self.shares.fill(share);
            Ok(())
        }

        fn vcpu_times(&mut self) -> Option<Vec<Duration>> {
            self.tells.then(|| self.ran.clone())
        }

        fn throttle_vcpus(&mut self, shares: &[ThrottleShare]) -> Result<(), GuestError> {
            self.shares = shares.to_vec();
            Ok(())
        }
    }

    impl SourceGuest for Guest {
        fn pause(&mut self) -> Result<(), GuestError> {
            Ok(())
        }

        fn save_devices(&mut self, _: &mut dyn std::io::Write) -> Result<(), GuestError> {
            Ok(())
        }

        fn relinquish(&mut self) -> Result<(), GuestError> {
            Ok(())
        }

        fn resume(&mut self) -> Result<(), GuestError> {
            Ok(())
        }

        fn throttler(&mut self) -> Option<&mut dyn Throttler> {
            Some(self)
        }
    }

    /// A tracker that does not count what each vCPU writes.
    struct Uncounted(ManualTracker);

    impl DirtySource for Uncounted {
        fn arm(&mut self) -> Result<(), crate::dirty::DirtyError> {
            self.0.arm()
        }

        fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), crate::dirty::DirtyError> {
            self.0.harvest(into)
        }

        fn give_back(&mut self, pages: &PageBitmap) {
            self.0.give_back(pages);
        }

        fn disarm(&mut self) {
            self.0.disarm();
        }
    }

    /// Throttled by nine tenths for two rounds of five seconds each; the shares at the end, and
    /// what the throttle came to.
    fn throttled(tells: bool, counts: bool) -> (Vec<ThrottleShare>, Option<ThrottleShare>) {
        let mut tracker = ManualTracker::new(PageCount(PAGES));
        let mut guest = Guest {
            markers: tracker.vcpu_markers(2),
            ran: vec![Duration::ZERO; 2],
            shares: vec![ThrottleShare::NONE; 2],
            next_page: 0,
            tells,
        };
        let (mut counted, mut uncounted);
        let dirty: &mut dyn DirtySource = if counts {
            counted = tracker;
            &mut counted
        } else {
            uncounted = Uncounted(tracker);
            &mut uncounted
        };
        let (mut throttle, mut now) = (Throttle::default(), Instant(0));
        let mut pages = PageBitmap::new(PageCount(PAGES));
        let share = ThrottleShare::permille(900);
        throttle.sample(now, true, &mut guest, dirty).unwrap();
        for round in 0..3 {
            for _ in 0..100 {
                let tick = Duration::from_millis(50);
                guest.run(tick);
                now = now.after(tick);
                throttle.sample_if_due(now, &mut guest, dirty).unwrap();
            }
            pages.clear();
            dirty.harvest(&mut pages).unwrap();
            throttle.sample(now, true, &mut guest, dirty).unwrap();
            if round == 0 {
                throttle.want(share, share, &mut guest).unwrap();
            }
        }
        (guest.shares, throttle.effect())
    }

    #[test]
    fn the_vcpu_that_writes_is_throttled_and_the_other_is_not() {
        let (shares, effect) = throttled(true, true);
        assert_eq!(shares, [ThrottleShare::NONE, ThrottleShare::permille(900)]);
        // As much was written as with one share for all.
        let effect = effect.unwrap().as_fraction();
        assert!((0.87..0.93).contains(&effect), "{effect}");
    }

    #[test]
    fn vcpus_without_counts_or_times_are_throttled_alike() {
        for (tells, counts) in [(true, false), (false, true), (false, false)] {
            let (shares, effect) = throttled(tells, counts);
            assert_eq!(
                (shares, effect),
                (vec![ThrottleShare::permille(900); 2], None)
            );
        }
    }
}
