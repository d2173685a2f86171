//! Faults with real processes: what is killed, interrupted, cut, hung or full, and when.
//!
//! After each of them the programs have ended with the exit code and the words that say where the
//! guest is; the guest runs on exactly one side, or is said to be stopped on both where nobody can
//! know better; it has lost nothing, is not tracked or throttled any more, has its disks as they
//! were, and can be sent again; and nothing is left behind.
//!
//! Attempts take the settings of `--compress` in turn. Calm guests have a disk that bypasses the
//! page cache and are sent with `--buffer-disks`; busy ones are throttled when it strikes.
//!
//! `PAGELIFT_TEST_SEED` repeats the draws of the random moments, and `PAGELIFT_TEST_STRIKES` says
//! how many of them there are. `tests/run --faults N` strikes N fresh pairs of QEMUs ([`campaign`]).
//!
//! To strike at a known point, a program stops itself there (`PAGELIFT_FAILPOINT`, see
//! `pagelift_control::failpoints`). The times that are printed are for people and not asserted.

mod campaign;
mod demo;
mod draws;
mod ground;
mod guest;
mod health;
mod links;
mod moments;
mod owner;
mod points;
mod room;
mod tally;
mod throttled;
mod verdict;
mod watch;
