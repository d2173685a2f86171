//! The values of a job's settings as users write them: times, rates, shares, counts.
//!
//! An error says what to write instead.

use std::num::NonZeroUsize;
use std::time::Duration;

use pagelift_engine::codec::select::CpuLimit;
use pagelift_engine::converge::{Downtime, ThrottleShare};
use pagelift_engine::job::default_channels;
use pagelift_engine::migration::DowntimeLimit;
use pagelift_engine::units::{ParseQuantityError, Rate, parse_duration};
use pagelift_engine::wire::MAX_CHANNELS;

/// When a migration has taken long enough, if ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(pub Option<Duration>);

/// The largest share of its time that a guest may be kept from running, if a user says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxThrottle(pub Option<ThrottleShare>);

/// How many threads scan page tables for writes, if a user says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanThreads(pub Option<NonZeroUsize>);

/// Reads a time span.
///
/// # Errors
/// When it is none.
pub fn duration(text: &str) -> Result<Duration, ParseQuantityError> {
    parse_duration(text)
}

/// Reads a deadline: a time span, or `none`.
///
/// # Errors
/// When it is neither.
pub fn deadline(text: &str) -> Result<Deadline, String> {
    if text == "none" {
        return Ok(Deadline(None));
    }
    let time = parse_duration(text).map_err(|error| format!("{error}; or write none"))?;
    Ok(Deadline(Some(time)))
}

/// Reads a downtime: a time span, or two with `..` between them.
///
/// # Errors
/// When it is neither, or the second is the shorter one.
pub fn downtime(text: &str) -> Result<Downtime, String> {
    let span = |text: &str| parse_duration(text).map_err(|error| error.to_string());
    match text.split_once("..") {
        None => span(text).map(Downtime::fixed),
        Some((least, most)) => Downtime::growing(span(least)?, span(most)?)
            .ok_or_else(|| format!("{text}: the second time must be the longer one")),
    }
}

/// Reads a downtime limit: a time span, or `auto`.
///
/// # Errors
/// When it is neither.
pub fn downtime_limit(text: &str) -> Result<DowntimeLimit, String> {
    if text == "auto" {
        return Ok(DowntimeLimit::Auto);
    }
    let time = parse_duration(text).map_err(|error| format!("{error}; or write auto"))?;
    if time.is_zero() {
        return Err("a guest that may not stand still cannot move; write 100ms, say".into());
    }
    Ok(DowntimeLimit::Fixed(time))
}

/// Reads the largest share of a throttle, in per cent, or `auto`.
///
/// # Errors
/// When it is none.
pub fn max_throttle(text: &str) -> Result<MaxThrottle, String> {
    if text == "auto" {
        return Ok(MaxThrottle(None));
    }
    let percent = text.parse().ok().filter(|percent: &u16| *percent <= 99);
    percent
        .map(|percent| MaxThrottle(Some(ThrottleShare::permille(percent * 10))))
        .ok_or_else(|| {
            format!("{text:?} is no share in per cent; write a number from 0 to 99, or auto")
        })
}

/// Reads a rate, which must not be zero.
///
/// # Errors
/// When it is none.
pub fn rate(text: &str) -> Result<Rate, String> {
    match text.parse::<Rate>() {
        Ok(Rate(0)) => Err("a rate of zero would never end; leave the option out".into()),
        Ok(rate) => Ok(rate),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads a limit of processor time, in per cent of one processor.
///
/// # Errors
/// When it is none.
pub fn cpu_limit(text: &str) -> Result<CpuLimit, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let percent = number.parse().map_err(|_| {
        format!(
            "{text:?} is no share of a processor; write 50% for half of one, or 150% for one and \
             a half"
        )
    })?;
    Ok(CpuLimit {
        threads: None,
        percent: Some(percent),
    })
}

/// Reads a number of channels, or `auto`.
///
/// # Errors
/// When it is neither, or out of range.
pub fn channels(text: &str) -> Result<u16, String> {
    if text == "auto" {
        return Ok(default_channels());
    }
    text.parse()
        .ok()
        .filter(|count| (1..=MAX_CHANNELS).contains(count))
        .ok_or_else(|| format!("write a number from 1 to {MAX_CHANNELS}, or auto"))
}

/// Reads a number of threads that scan page tables, or `auto`.
///
/// # Errors
/// When it is neither.
pub fn scan_threads(text: &str) -> Result<ScanThreads, String> {
    if text == "auto" {
        return Ok(ScanThreads(None));
    }
    let threads = text.parse().map(|threads| ScanThreads(Some(threads)));
    threads.map_err(|_| "write a number from 1 on, or auto".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans_have_a_thread_at_least() {
        assert_eq!(scan_threads("auto"), Ok(ScanThreads(None)));
        assert_eq!(scan_threads("3"), Ok(ScanThreads(NonZeroUsize::new(3))));
        for text in ["0", "-1", "many", ""] {
            assert!(scan_threads(text).unwrap_err().contains("or auto"));
        }
    }

    #[test]
    fn a_limit_of_processors_is_in_percent() {
        let limit = |text| cpu_limit(text).map(|limit| limit.percent.map(|percent| percent.get()));
        assert_eq!(limit("50%"), Ok(Some(50)));
        assert_eq!(limit("150"), Ok(Some(150)));
        for text in ["0", "0%", "-5%", "half", "", "%", "1e2", "70000"] {
            let error = cpu_limit(text).unwrap_err();
            assert!(
                error.starts_with(&format!("{text:?} is no share")),
                "{error}"
            );
            assert!(error.contains("write 50%"), "{error}");
        }
    }

    #[test]
    fn the_largest_throttle_is_in_percent() {
        let most = |share| Ok(MaxThrottle(share));
        assert_eq!(max_throttle("0"), most(Some(ThrottleShare::NONE)));
        assert_eq!(max_throttle("99"), most(Some(ThrottleShare::permille(990))));
        assert_eq!(max_throttle("auto"), most(None));
        for text in ["100", "-1", "half", "", "50%", "70000"] {
            let error = max_throttle(text).unwrap_err();
            assert!(error.contains("write a number from 0 to 99"), "{error}");
        }
    }

    #[test]
    fn a_downtime_is_one_time_or_a_growing_pair() {
        let ms = Duration::from_millis;
        assert_eq!(downtime("50ms"), Ok(Downtime::fixed(ms(50))));
        let growing = Downtime::growing(ms(50), ms(2000)).unwrap();
        assert_eq!(downtime("50ms..2s"), Ok(growing));
        assert!(downtime("2s..50ms").is_err());
        assert!(downtime("..").is_err());
    }

    #[test]
    fn a_deadline_is_a_time_or_none() {
        assert_eq!(deadline("2s"), Ok(Deadline(Some(Duration::from_secs(2)))));
        assert_eq!(deadline("none"), Ok(Deadline(None)));
        assert!(deadline("never").unwrap_err().contains("or write none"));
    }
}
