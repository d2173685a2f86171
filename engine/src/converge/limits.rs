//! Limits of a migration: set by its user, who may change them while the guest moves.

use std::fmt;
use std::time::Duration;

use super::ThrottleShare;
use crate::units::LONGEST_SPAN;

/// Downtime allowed unless a user says otherwise.
pub(super) const DEFAULT_DOWNTIME: Duration = Duration::from_millis(50);

/// Time from the beginning to the guest's stop unless a user says otherwise.
pub(super) const DEFAULT_DEADLINE: Duration = Duration::from_secs(600);

/// The policies that a user can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// [`Predictive`](super::Predictive).
    Predictive,
    /// [`Classic`](super::Classic).
    Classic,
    /// [`StopWhenFits`](super::StopWhenFits): never throttles.
    None,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Predictive, Self::Classic, Self::None];

    /// Its name in options, on the control socket and in traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Predictive => "predictive",
            Self::Classic => "classic",
            Self::None => "none",
        }
    }

    /// The policy called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What happens at the deadline if the guest still runs on the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtDeadline {
    /// The migration ends; the guest goes on at the source, without a throttle.
    Cancel,
    /// The throttle ends; the guest moves as soon as it fits the downtime allowed by itself.
    StopTrying,
    /// The guest is stopped and moves, however long the downtime.
    Force,
}

impl AtDeadline {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cancel, Self::StopTrying, Self::Force];

    /// Its name in options, on the control socket and in traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::StopTrying => "stop-trying",
            Self::Force => "force",
        }
    }

    /// The action called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

/// The downtime allowed: at first, and at most once it has grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Downtime {
    least: Duration,
    most: Duration,
}

impl Downtime {
    /// A downtime that does not grow.
    pub fn fixed(time: Duration) -> Self {
        Self {
            least: time,
            most: time,
        }
    }

    /// A downtime that grows from `least` to `most`; `None` if `most` is shorter.
    pub fn growing(least: Duration, most: Duration) -> Option<Self> {
        (least <= most).then_some(Self { least, most })
    }

    /// Allowed at first.
    pub fn least(self) -> Duration {
        self.least
    }

    /// Allowed in the end.
    pub fn most(self) -> Duration {
        self.most
    }
}

impl From<Duration> for Downtime {
    /// One that stays as it is.
    fn from(time: Duration) -> Self {
        Self::fixed(time)
    }
}

impl fmt::Display for Downtime {
    /// `50ms`, or `50ms..500ms`: as on a command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        if self.least == self.most {
            write!(f, "{}ms", ms(self.least))
        } else {
            write!(f, "{}ms..{}ms", ms(self.least), ms(self.most))
        }
    }
}

/// The limits of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// The policy that decides.
    pub policy: PolicyKind,
    /// The downtime allowed. The digest of verify mode is not counted against it.
    pub downtime: Downtime,
    /// Longest time from the migration's beginning to the guest's stop; `None`: no limit.
    pub deadline: Option<Duration>,
    /// What happens at the deadline.
    pub at_deadline: AtDeadline,
    /// The strongest throttle; `None`: the policy's own, which is
    /// [`strongest`](super::ThrottleResponse::strongest), or 99 % with [`Classic`](super::Classic).
    pub throttle_most: Option<ThrottleShare>,
}

impl Default for Limits {
    /// 50 ms, ten minutes, and then the guest stays on the source.
    fn default() -> Self {
        Self {
            policy: PolicyKind::Predictive,
            downtime: Downtime::fixed(DEFAULT_DOWNTIME),
            deadline: Some(DEFAULT_DEADLINE),
            at_deadline: AtDeadline::Cancel,
            throttle_most: None,
        }
    }
}

impl Limits {
    /// Whether the deadline has come, `elapsed` after the beginning.
    pub fn is_late(&self, elapsed: Duration) -> bool {
        self.deadline.is_some_and(|deadline| elapsed >= deadline)
    }

    /// The deadline as a policy's timeout.
    pub(super) fn timeout(&self) -> Duration {
        self.deadline.unwrap_or(Duration::MAX)
    }
}

impl fmt::Display for Limits {
    /// As a trace has it: `key=value`, separated by spaces, times in microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "policy={} downtime_us={} downtime_most_us={} deadline_us=",
            self.policy.name(),
            self.downtime.least.as_micros(),
            self.downtime.most.as_micros(),
        )?;
        match self.deadline {
            Some(deadline) => write!(f, "{}", deadline.as_micros())?,
            None => f.write_str("none")?,
        }
        write!(f, " at_deadline={} throttle_most=", self.at_deadline.name())?;
        match self.throttle_most {
            Some(share) => write!(f, "{}", share.as_permille()),
            None => f.write_str("auto"),
        }
    }
}

impl Limits {
    /// Reads what `Display` writes, each value by its key.
    ///
    /// # Errors
    /// Gives the key that is missing or has no valid value.
    pub(super) fn from_values<'a>(
        value: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<Self, &'static str> {
        let text = |key: &'static str| value(key).ok_or(key);
        let micros = |key: &'static str| {
            let number: u64 = text(key)?.parse().map_err(|_| key)?;
            let time = Duration::from_micros(number);
            Some(time).filter(|time| *time <= LONGEST_SPAN).ok_or(key)
        };
        let (least, most) = (micros("downtime_us")?, micros("downtime_most_us")?);
        Ok(Self {
            policy: PolicyKind::from_name(text("policy")?).ok_or("policy")?,
            downtime: Downtime::growing(least, most).ok_or("downtime_most_us")?,
            deadline: match text("deadline_us")? {
                "none" => None,
                _ => Some(micros("deadline_us")?),
            },
            at_deadline: AtDeadline::from_name(text("at_deadline")?).ok_or("at_deadline")?,
            throttle_most: match text("throttle_most")? {
                "auto" => None,
                permille => {
                    let permille = permille.parse().map_err(|_| "throttle_most")?;
                    Some(ThrottleShare::permille(permille))
                }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_back_as_written() {
        let ms = Duration::from_millis;
        let all = [
            Limits::default(),
            Limits {
                policy: PolicyKind::Classic,
                downtime: Downtime::growing(ms(50), ms(500)).unwrap(),
                deadline: None,
                at_deadline: AtDeadline::Force,
                throttle_most: Some(ThrottleShare::NONE),
            },
        ];
        for limits in all {
            let text = limits.to_string();
            let value = |key: &'static str| {
                text.split(' ')
                    .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            };
            assert_eq!(Limits::from_values(value), Ok(limits), "{text}");
        }
        assert_eq!(Limits::from_values(|_| None), Err("downtime_us"));
        assert_eq!(Limits::from_values(|_| Some("1")), Err("policy"));
    }

    #[test]
    fn a_downtime_does_not_shrink() {
        let ms = Duration::from_millis;
        assert_eq!(Downtime::growing(ms(2), ms(1)), None);
        assert_eq!(
            Downtime::growing(ms(1), ms(1)),
            Some(Downtime::fixed(ms(1)))
        );
        assert_eq!(Downtime::fixed(ms(50)).to_string(), "50ms");
        let growing = Downtime::growing(ms(50), ms(500)).unwrap();
        assert_eq!(growing.to_string(), "50ms..500ms");
    }
}
