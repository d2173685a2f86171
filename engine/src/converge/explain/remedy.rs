//! What would have worked for a migration that was given up, from the estimates; the same for every
//! policy.

use std::fmt;
use std::time::Duration;

use crate::converge::forecast::rounds::Assumptions;
use crate::converge::limits::DEFAULT_DEADLINE;
use crate::converge::{DirtyCurve, DowntimeForecast, Observation, RoundsForecast, ThrottleShare};
use crate::units::Rate;

/// Fastest link that is tried, as a multiple of the one there is.
const FASTEST: f64 = 1e4;

/// Ways out, each of which is enough by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Remedy {
    /// Allow this downtime: the guest could then be stopped at once.
    pub downtime: Option<Duration>,
    /// Allow this throttle, the weakest that is enough.
    pub throttle: Option<ThrottleShare>,
    /// Use a link of this rate, without a throttle.
    pub link: Option<Rate>,
}

impl Remedy {
    /// The ways out, of at most ten minutes, for a guest that writes as `curve` says, where a downtime of `limit` is allowed.
    pub fn of(curve: &DirtyCurve, seen: &Observation, limit: Duration) -> Self {
        let ready = |seen: &Observation, share| {
            let rounds_forecast =
                RoundsForecast::of(curve, seen, limit, share, Assumptions::default());
            rounds_forecast
                .ready_in
                .is_some_and(|time| time <= DEFAULT_DEADLINE)
        };
        let downtime = DowntimeForecast::of(seen).map(|parts| parts.total().high());
        let shares = (1..=19).map(|step| ThrottleShare::permille(step * 50));
        Self {
            downtime: downtime.filter(|needed| *needed > limit),
            throttle: shares
                .chain([ThrottleShare::MOST])
                .find(|share| ready(seen, *share)),
            link: link(seen, |faster| ready(faster, ThrottleShare::NONE)),
        }
    }
}

/// The slowest link above the one that was seen for which `ready` holds.
fn link(seen: &Observation, ready: impl Fn(&Observation) -> bool) -> Option<Rate> {
    let rate = seen.link.filter(|rate| rate.0 > 0)?.0 as f64;
    // A page is taken to be as much quicker: the processors' part of its time is not known.
    let faster = |times: f64| Observation {
        link: Some(Rate((rate * times) as u64)),
        page_time: seen.page_time.map(|mut page| {
            page.seconds /= times;
            page
        }),
        ..*seen
    };
    let (mut slow, mut fast) = (1.0, 2.0);
    while !ready(&faster(fast)) {
        (slow, fast) = (fast, fast * 2.0);
        if fast > FASTEST {
            return None;
        }
    }
    for _ in 0..5 {
        let middle = (slow + fast) / 2.0;
        if ready(&faster(middle)) {
            fast = middle;
        } else {
            slow = middle;
        }
    }
    Some(Rate((rate * fast) as u64))
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ways = Vec::new();
        if let Some(downtime) = self.downtime {
            let ms = downtime.as_secs_f64() * 1e3;
            ways.push(format!("a downtime of {:.0} ms", ms.ceil()));
        }
        if let Some(throttle) = self.throttle {
            ways.push(format!("a throttle of {throttle}"));
        }
        if let Some(link) = self.link {
            ways.push(format!("a link that carries {link}"));
        }
        match &ways[..] {
            [] => f.write_str("nothing that was measured says what would do; let the guest rest"),
            [only] => write!(f, "{only} would do"),
            [first @ .., last] => write!(f, "{} or {last} would do", first.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::converge::LostWork;
    use crate::converge::forecast::downtime::tests::seen;
    use crate::units::{Instant, PageCount};

    /// Writes `per_s` new pages a second.
    fn linear(per_s: u64) -> DirtyCurve {
        let mut curve = DirtyCurve::default();
        for n in 1..5 {
            let time = Duration::from_millis(2000 / n);
            let pages = PageCount(per_s * 2 / n);
            curve.harvested(Instant(0).after(time), time, LostWork::NONE, pages);
        }
        curve
    }

    #[test]
    fn a_guest_twice_as_fast_as_the_link_needs_half_its_time_or_twice_the_link() {
        let seen = seen(10_000, 5, 50_000);
        // 100 MB/s are 24,414 pages a second.
        let remedy = Remedy::of(&linear(48_828), &seen, Duration::from_millis(50));
        let throttle = remedy.throttle.unwrap();
        assert!((500..=600).contains(&throttle.as_permille()), "{remedy:?}");
        let link = remedy.link.unwrap().0;
        assert!((200_000_000..250_000_000).contains(&link), "{remedy:?}");
        // 10 ms and 2.05 s for the pages, give or take what the link wavers.
        let downtime = remedy.downtime.unwrap();
        assert!((2050..2600).contains(&downtime.as_millis()), "{remedy:?}");
        let text = remedy.to_string();
        assert!(text.starts_with("a downtime of 2"), "{text}");
        assert!(
            text.contains(", a throttle of 55 % or a link that carries 2"),
            "{text}"
        );
    }

    #[test]
    fn a_fixed_cost_above_the_limit_is_cured_by_a_longer_downtime_alone() {
        let seen = seen(10_000, 5, 0);
        let remedy = Remedy::of(&linear(10), &seen, Duration::from_millis(5));
        assert_eq!((remedy.throttle, remedy.link), (None, None));
        assert_eq!(remedy.to_string(), "a downtime of 10 ms would do");
    }

    #[test]
    fn who_knows_nothing_says_so() {
        assert!(Remedy::default().to_string().starts_with("nothing"));
    }
}
