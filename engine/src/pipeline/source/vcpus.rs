//! Throttles the guest's vCPUs each by its own share: looks at what they do when it is due,
//! and tells the guest what [`VcpuThrottle`] made of it.
//!
//! A guest that does not tell the times of its vCPUs, or whose written pages cannot be looked at
//! between harvests, is throttled by one share for all. Looks take at most a twentieth of the
//! time, however large the guest is.

use std::time::Duration;

use crate::converge::{LookKind, ThrottleResponse, ThrottleShare, VcpuLook, VcpuThrottle};
use crate::dirty::DirtySource;
use crate::guest::{GuestError, SourceGuest, Throttler};
use crate::units::{Instant, PageCount};

/// The time between two looks, in units of what the last one took.
const LOOKS_APART: u32 = 20;

/// The throttle of one sending.
#[derive(Debug, Default)]
pub(super) struct Vcpus {
    throttle: VcpuThrottle,
    /// Whether pages can be looked at between harvests, or are counted for each vCPU.
    can_look: bool,
    looked_at: Instant,
    look_took: Duration,
    /// What the guest was told last; empty: one share for all.
    told: Vec<ThrottleShare>,
}

impl Vcpus {
    /// Tracking has begun.
    pub(super) fn armed(
        &mut self,
        now: Instant,
        guest: &mut dyn SourceGuest,
        dirty: &mut dyn DirtySource,
    ) {
        self.can_look =
            dirty.written_by().is_some() || matches!(dirty.look(), Ok(Some(PageCount(_))));
        self.take(now, PageCount(0), LookKind::RoundEnd, guest, dirty);
    }

    /// The policy wants `share`, and no vCPU throttled by more than `most`.
    pub(super) fn throttle(
        &mut self,
        share: ThrottleShare,
        most: ThrottleShare,
        guest: &mut dyn SourceGuest,
    ) -> Result<(), GuestError> {
        self.throttle.want(share, most);
        match self.throttle.shares() {
            None => {
                self.told.clear();
                apply(guest, |throttler| throttler.throttle(share))
            }
            Some(_) => self.tell(guest),
        }
    }

    /// `pages` were harvested. Gives what the throttle came to since the last harvest, if not to
    /// what was asked for.
    pub(super) fn harvested(
        &mut self,
        now: Instant,
        pages: PageCount,
        guest: &mut dyn SourceGuest,
        dirty: &mut dyn DirtySource,
    ) -> Result<Option<ThrottleShare>, GuestError> {
        self.take(now, pages, LookKind::RoundEnd, guest, dirty);
        self.tell(guest)?;
        Ok(self.throttle.effect())
    }

    /// `pages` were harvested while the round goes on.
    pub(super) fn harvested_within(
        &mut self,
        now: Instant,
        pages: PageCount,
        guest: &mut dyn SourceGuest,
        dirty: &mut dyn DirtySource,
    ) -> Result<(), GuestError> {
        self.take(now, pages, LookKind::HarvestWithin, guest, dirty);
        self.tell(guest)
    }

    /// What a throttle takes of the guest's work, as far as its vCPUs' times tell.
    pub(super) fn response(&self) -> ThrottleResponse {
        self.throttle.response()
    }

    /// Looks, if it is time to; gives the time of the next look, if there is to be one.
    pub(super) fn look(
        &mut self,
        clock: &dyn Fn() -> Instant,
        guest: &mut dyn SourceGuest,
        dirty: &mut dyn DirtySource,
    ) -> Result<Option<Instant>, GuestError> {
        let Some(next) = self.next() else {
            return Ok(None);
        };
        let now = clock();
        if now < next {
            return Ok(Some(next));
        }
        // A harvest that fails for the same reason will say so.
        let Ok(Some(pages)) = dirty.look() else {
            self.looked_at = now;
            return Ok(self.next());
        };
        self.take(now, pages, LookKind::Between, guest, dirty);
        self.look_took = clock().since(now);
        self.tell(guest)?;
        Ok(self.next())
    }

    /// The guest stands still: nothing is to be looked at, or throttled, any more.
    pub(super) fn stopped(&mut self) {
        *self = Self::default();
    }

    fn next(&self) -> Option<Instant> {
        let pause = self.throttle.look_after().filter(|_| self.can_look)?;
        Some(
            self.looked_at
                .after(pause.max(self.look_took * LOOKS_APART)),
        )
    }

    fn take(
        &mut self,
        now: Instant,
        written: PageCount,
        kind: LookKind,
        guest: &mut dyn SourceGuest,
        dirty: &mut dyn DirtySource,
    ) {
        self.looked_at = now;
        if !self.can_look {
            return;
        }
        if let Some(ran) = guest.throttler().and_then(Throttler::vcpu_times) {
            self.throttle.looked(VcpuLook {
                now,
                ran,
                written,
                written_by: dirty.written_by(),
                kind,
            });
        }
    }

    /// Tells the guest, if something has changed.
    fn tell(&mut self, guest: &mut dyn SourceGuest) -> Result<(), GuestError> {
        match self.throttle.shares() {
            Some(shares) if shares != self.told => {
                self.told = shares.to_vec();
                apply(guest, |throttler| throttler.throttle_vcpus(&self.told))
            }
            None if !self.told.is_empty() => {
                self.told.clear();
                apply(guest, |throttler| {
                    throttler.throttle(self.throttle.wanted())
                })
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
    use super::*;
    use crate::dirty::{ManualTracker, VcpuMarker};
    use crate::memory::PageBitmap;
    use crate::units::PageRange;

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

    /// A tracker that tells how much was written, but not by whom.
    struct Uncounted(ManualTracker);

    impl DirtySource for Uncounted {
        fn arm(&mut self) -> Result<(), crate::dirty::DirtyError> {
            self.0.arm()
        }

        fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), crate::dirty::DirtyError> {
            self.0.harvest(into)
        }

        fn look(&mut self) -> Result<Option<PageCount>, crate::dirty::DirtyError> {
            self.0.look()
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
        let (mut vcpus, mut now, mut effect) = (Vcpus::default(), Instant(0), None);
        let mut pages = PageBitmap::new(PageCount(PAGES));
        let share = ThrottleShare::permille(900);
        vcpus.armed(now, &mut guest, dirty);
        for round in 0..3 {
            for _ in 0..100 {
                let tick = Duration::from_millis(50);
                guest.run(tick);
                now = now.after(tick);
                vcpus.look(&|| now, &mut guest, dirty).unwrap();
            }
            pages.clear();
            dirty.harvest(&mut pages).unwrap();
            effect = vcpus
                .harvested(now, pages.count(), &mut guest, dirty)
                .unwrap();
            if round == 0 {
                vcpus.throttle(share, share, &mut guest).unwrap();
            }
        }
        (guest.shares, effect)
    }

    #[test]
    fn the_vcpu_that_writes_is_slowed_and_the_other_is_not() {
        for counts in [true, false] {
            let (shares, effect) = throttled(true, counts);
            assert_eq!(
                shares,
                [ThrottleShare::NONE, ThrottleShare::permille(900)],
                "{counts}"
            );
            // As much was written as with one share for all.
            let effect = effect.unwrap().as_fraction();
            assert!((0.87..0.93).contains(&effect), "{effect}");
        }
    }

    #[test]
    fn vcpus_of_which_nothing_is_known_are_slowed_alike() {
        let (shares, effect) = throttled(false, true);
        assert_eq!(
            (shares, effect),
            (vec![ThrottleShare::permille(900); 2], None)
        );
    }
}
