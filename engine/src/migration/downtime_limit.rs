//! The downtime limit: how long a guest may stand still before it is handed over.
//!
//! The downtime that is *allowed* ([`Limits::downtime`](crate::converge::Limits)) is an aim: a policy
//! stops the guest when it expects to meet it. The limit is what happens when that was wrong: past it
//! the guest goes on at the source, whatever was slow (the link, the target's hypervisor, a monitor, a
//! disk).

use std::time::Duration;

use crate::units::ByteCount;

/// [`Auto`](DowntimeLimit::Auto) is never shorter.
const AUTO_LEAST: Duration = Duration::from_secs(5);

/// [`Auto`](DowntimeLimit::Auto) is so many times the downtime allowed.
const AUTO_TIMES: u32 = 10;

/// What [`Auto`](DowntimeLimit::Auto) adds for each GiB whose digest is computed.
const AUTO_DIGEST_PER_GIB: Duration = Duration::from_secs(2);

/// How long a guest may stand still before it is handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DowntimeLimit {
    /// Ten times the downtime allowed, 5 s at least, and 2 s more for each GiB of memory in verify
    /// mode. A guest that was stopped by force, whatever the downtime, may stand still for so long
    /// without progress: a page that is placed, or a step of the switchover that is done.
    #[default]
    Auto,
    /// So long from its stop on, in any case.
    Fixed(Duration),
}

impl DowntimeLimit {
    /// The limit where the downtime `allowed` is the policy's aim, and digests of `digested` bytes are
    /// computed.
    pub fn time(self, allowed: Duration, digested: ByteCount) -> Duration {
        match self {
            Self::Fixed(time) => time,
            Self::Auto => {
                let gib = digested.0.div_ceil(1 << 30);
                let gib = u32::try_from(gib).unwrap_or(u32::MAX);
                let digests = AUTO_DIGEST_PER_GIB.saturating_mul(gib);
                let times = allowed.saturating_mul(AUTO_TIMES);
                times.max(AUTO_LEAST).saturating_add(digests)
            }
        }
    }

    /// Whether progress extends it for a guest that was stopped by force.
    pub(super) fn counts_from_progress(self) -> bool {
        self == Self::Auto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_follows_the_aim_and_the_memory_to_digest() {
        let (ms, auto) = (Duration::from_millis, DowntimeLimit::Auto);
        assert_eq!(auto.time(ms(50), ByteCount(0)), ms(5000));
        assert_eq!(auto.time(ms(2000), ByteCount(0)), ms(20_000));
        assert_eq!(auto.time(ms(50), ByteCount(1)), ms(7000));
        let fixed = DowntimeLimit::Fixed(ms(80));
        assert_eq!(fixed.time(ms(2000), ByteCount(1 << 40)), ms(80));
    }
}
