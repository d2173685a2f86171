//! The limit of the processor time that the engine may use.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

/// A limit for the whole engine, on one side: written `2` (threads), `150%` (of one
/// processor, so one and a half), or both, `2,150%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CpuLimit {
    /// Most worker threads; `None` for as many as there are channels.
    pub threads: Option<NonZeroU16>,
    /// Most processor time of all workers together, in percent of one processor.
    pub percent: Option<NonZeroU16>,
}

impl CpuLimit {
    /// Worker threads, of `wanted`.
    pub fn workers(self, wanted: NonZeroU16) -> NonZeroU16 {
        self.threads.map_or(wanted, |threads| threads.min(wanted))
    }

    /// How long one of `workers` threads is to rest after it was `busy`, so that all together
    /// stay within the percentage.
    pub fn pause(self, busy: Duration, workers: u16) -> Duration {
        let workers = f64::from(workers);
        let processors = self.processors(usize::MAX).min(workers);
        busy.mul_f64(workers / processors - 1.0)
    }

    /// Processors that the percentage allows, of so many that there are.
    pub fn processors(self, available: usize) -> f64 {
        let allowed = self
            .percent
            .map_or(f64::INFINITY, |percent| f64::from(percent.get()) / 100.0);
        allowed.min(available as f64)
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.threads, self.percent) {
            (None, None) => f.write_str("none"),
            (Some(threads), None) => threads.fmt(f),
            (None, Some(percent)) => write!(f, "{percent}%"),
            (Some(threads), Some(percent)) => write!(f, "{threads},{percent}%"),
        }
    }
}

/// Why a text is no [`CpuLimit`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a limit of processors; \
     write 2 for two threads, 150% for one and a half processors, or 2,150% for both"
)]
pub struct ParseCpuLimitError(String);

impl FromStr for CpuLimit {
    type Err = ParseCpuLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseCpuLimitError(text.to_owned());
        let mut limit = Self::default();
        for part in text.split(',').map(str::trim) {
            let (number, field) = match part.strip_suffix('%') {
                Some(number) => (number, &mut limit.percent),
                None => (part, &mut limit.threads),
            };
            let number = number.parse().map_err(|_| error())?;
            if field.replace(number).is_some() {
                return Err(error());
            }
        }
        Ok(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(text: &str) -> CpuLimit {
        text.parse().unwrap()
    }

    #[test]
    fn threads_and_percent_are_told_apart() {
        assert_eq!(limit("2").threads, NonZeroU16::new(2));
        assert_eq!(limit("2").percent, None);
        assert_eq!(limit("150%").percent, NonZeroU16::new(150));
        assert_eq!(limit("2,150%"), limit("150%, 2"));
        for text in ["2", "150%", "2,150%"] {
            assert_eq!(limit(text).to_string(), text);
        }
    }

    #[test]
    fn an_error_names_the_text_and_the_way_out() {
        for text in ["", "0", "0%", "two", "1,2", "50%,60%", "-1", "2.5"] {
            let error = text.parse::<CpuLimit>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a limit")));
            assert!(error.contains("write 2 for two threads"));
        }
    }

    #[test]
    fn a_worker_rests_so_that_all_keep_to_the_percentage() {
        let busy = Duration::from_millis(10);
        assert_eq!(limit("3").pause(busy, 4), Duration::ZERO);
        assert_eq!(limit("400%").pause(busy, 4), Duration::ZERO);
        assert_eq!(limit("900%").pause(busy, 4), Duration::ZERO);
        assert_eq!(limit("100%").pause(busy, 4), Duration::from_millis(30));
        assert_eq!(limit("50%").pause(busy, 1), Duration::from_millis(10));
    }

    #[test]
    fn a_limit_never_adds_threads() {
        let wanted = NonZeroU16::new(4).unwrap();
        assert_eq!(limit("2").workers(wanted).get(), 2);
        assert_eq!(limit("8").workers(wanted).get(), 4);
        assert_eq!(CpuLimit::default().workers(wanted).get(), 4);
    }
}
