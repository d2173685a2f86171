//! A campaign of faults over real QEMUs: what is killed, hangs or is cut, for how long and when,
//! follows from the seed of each case, which has a pair of QEMUs of its own.
//!
//! After each case exactly one side runs the guest; or the programs that still can have said that
//! they do not know, `cont` is refused on the sides in doubt, and one `pagelift settle` ends it with
//! one. The guest is whole, has not stood still for longer than its limit before it was handed over,
//! and no program has said what is not so.
//!
//! An ordinary run has a few short cases. `tests/run --faults 200` runs 200 of any length, and
//! `PAGELIFT_TEST_SEED=7 tests/run --faults 1` case 7 alone.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pagelift_tests::{Bed, Images, NetPair, guest_images, require};

use serde_json::json;

use crate::draws::{Draws, number, seed};
use crate::ground::{COMPRESS, Ground, Kind, Stop, Strike};
use crate::guest::{Guest, NotStruck};
use crate::tally::{Ended, How, Sum};
use crate::verdict::{Outcome, Place, tell};
use crate::watch::runs;

/// Cases of an ordinary run, and how long what strikes in them lasts at most.
const FEW: (u64, Duration) = (3, Duration::from_secs(3));

/// Cases at a time: most of their time they wait.
const AT_A_TIME: u64 = 4;

/// How often a case is tried that did not get to its strike.
const TRIES: u64 = 4;

/// How long the guest may stand still before it is handed over.
const LIMIT: Duration = Duration::from_secs(2);

/// What the agent adds, and what a busy machine may.
const SLACK: Duration = Duration::from_secs(3);

/// What it takes, after a fault that struck a hand-over has ended, to notice and to ask again.
const ASKS_AGAIN: Duration = Duration::from_secs(15);

/// By when the agent has seen that its client is gone, and keeps QEMU from running a guest in doubt.
const HELD_AFTER: Duration = Duration::from_secs(1);

/// Where it may strike.
const STOPS: [Stop; 14] = [
    Stop::Sender("connected"),
    Stop::Sender("first-round"),
    Stop::Sender("later-round"),
    Stop::Sender("stopped"),
    Stop::Sender("last-pages"),
    Stop::Sender("placed"),
    Stop::Sender("state"),
    Stop::Receiver("loaded"),
    Stop::Receiver("prepared"),
    Stop::Sender("ready"),
    Stop::Sender("committed"),
    Stop::Sender("given-up"),
    Stop::Receiver("granted"),
    Stop::Receiver("running"),
];

/// When it strikes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    At(Stop),
    After(Duration),
}

/// One case.
#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    strike: Strike,
    moment: Moment,
    /// Which of the settings of `--compress`.
    turn: usize,
    /// The guest has a disk, whose lock keeps a second QEMU from running it.
    has_disk: bool,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut draws = Draws::new(seed);
        // From a second to a minute, each doubling as often.
        let seconds = 60_f64.powf(draws.below(1000) as f64 / 1000.0);
        let time = Duration::from_secs_f64(seconds);
        let strike = draws.pick(&[
            Strike::KillReceiver,
            Strike::KillSender,
            Strike::KillSourceQemu,
            Strike::KillTargetQemu,
            Strike::HangReceiver(time),
            Strike::HangSender(time),
            Strike::HangSourceQemu(time),
            Strike::HangTargetQemu(time),
            Strike::CutFor(time),
            Strike::Cut,
        ]);
        // Most of them where it hurts.
        let moment = match draws.below(4) {
            0 => Moment::After(Duration::from_micros(draws.below(1_600_000))),
            1 => Moment::At(draws.pick(&STOPS)),
            _ => Moment::At(draws.pick(&STOPS[6..])),
        };
        let turn = draws.below(COMPRESS.len() as u64) as usize;
        Self {
            seed,
            strike,
            moment,
            turn,
            has_disk: draws.below(2) == 0,
        }
    }

    /// What is done to whom, in words for a table.
    fn row(&self) -> &'static str {
        match self.strike {
            Strike::KillReceiver => "receiver killed",
            Strike::KillSender => "sender killed",
            Strike::KillSourceQemu => "source QEMU killed",
            Strike::KillTargetQemu => "target QEMU killed",
            Strike::HangReceiver(_) => "receiver hangs",
            Strike::HangSender(_) => "sender hangs",
            Strike::HangSourceQemu(_) => "source QEMU hangs",
            Strike::HangTargetQemu(_) => "target QEMU hangs",
            Strike::CutFor(_) => "link cut for a time",
            Strike::Cut => "link cut for good",
            Strike::InterruptReceiver => "receiver interrupted",
            Strike::InterruptSender => "sender interrupted",
        }
    }

    /// What came of it. On a machine with other work a guest may not boot, or a move not get to its
    /// point within the guest's limit: that is tried again.
    fn run(&self, images: &Images) -> Result<Ended> {
        for _ in 1..TRIES {
            match self.run_once(images) {
                Err(error) if error.is::<NotStruck>() => eprintln!("{self}: {error:#}"),
                ended => return ended,
            }
        }
        self.run_once(images)
    }

    fn run_once(&self, images: &Images) -> Result<Ended> {
        let bed = Bed::new()?;
        let net = match self.strike {
            Strike::Cut | Strike::CutFor(_) => Some(NetPair::new(&bed, None)?),
            _ => None,
        };
        let mut ground = Ground::new(&bed, images.clone(), Kind::Calm, self.turn, net)?;
        if !self.has_disk {
            ground = ground.without_disks();
        }
        ground.downtime_limit = Some("2s");
        let mut guest = ground.boot().context(NotStruck)?;
        let outcome = match self.moment {
            Moment::At(stop) => guest.struck_at(stop, self.strike)?,
            Moment::After(delay) => guest.struck_after(delay, self.strike)?,
        };
        tell(&self.to_string(), &outcome);
        outcome.is_true(self.strike == Strike::KillTargetQemu)?;
        self.stood_no_longer(&outcome)?;
        let stood = outcome.stood;
        let how = self.settles(&mut guest, outcome)?;
        drop(guest);
        drop(ground);
        bed.finish();
        Ok(Ended { how, stood })
    }

    /// Before it was handed over the guest has stood still for no longer than its limit. After that
    /// it may for as long as what is to run it does not.
    fn stood_no_longer(&self, outcome: &Outcome) -> Result<()> {
        let most = match outcome.place {
            Place::Source => LIMIT + SLACK,
            _ => LIMIT + SLACK + self.strike.lasts().unwrap_or_default() + ASKS_AGAIN,
        };
        let stood = outcome.stood;
        ensure!(stood <= most, "it stood still for {stood:?}: {outcome}");
        Ok(())
    }

    /// Ends a doubt, and checks what there is of the guest.
    fn settles(&self, guest: &mut Guest<'_>, outcome: Outcome) -> Result<How> {
        match (outcome.place, self.strike) {
            (Place::Lost, _) => self.fences(guest, &outcome),
            (Place::Neither, Strike::KillTargetQemu) => {
                // It may have run there: what it did since is lost with that QEMU.
                let place = guest.end_doubt(&outcome.target)?;
                ensure!(place == Place::Source, "it is settled on {place:?}");
                ensure!(guest.qemu.verify()?.bad == 0, "it has bad pages");
                Ok(How::Fenced)
            }
            (Place::Neither, _) => {
                says_that_it_does_not_know(&outcome)?;
                Ok(match guest.settle(outcome)? {
                    Place::Target => How::SettledOnTarget,
                    _ => How::SettledOnSource,
                })
            }
            (place, _) => {
                starts_nowhere_else(guest, &outcome)?;
                guest.settle(outcome)?;
                Ok(match place {
                    Place::Target => How::Target,
                    _ => How::Source,
                })
            }
        }
    }

    /// The source's QEMU is dead. A target that has all of the guest runs it by a person's word that
    /// the source is gone; another one never had it.
    fn fences(&self, guest: &mut Guest<'_>, outcome: &Outcome) -> Result<How> {
        let killed = self.strike == Strike::KillSourceQemu;
        ensure!(killed, "the source's QEMU has ended: {outcome}");
        let target = &outcome.target;
        let phase = match target.is_running() {
            true => guest.ground.recorded(target)?,
            false => String::new(),
        };
        if !["prepared", "granted"].contains(&phase.as_str()) {
            return Ok(How::LostWithSource);
        }
        let fenced = ["--fenced".into()];
        guest.ground.settled(&target.qmp_path(), &fenced)?;
        ensure!(runs(target), "it was settled, and does not run");
        ensure!(target.verify()?.bad == 0, "it has bad pages");
        Ok(How::Fenced)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "case {}: {:.1?} ", self.seed, self.strike)?;
        match self.moment {
            Moment::At(stop) => write!(f, "at {}", stop.point()),
            Moment::After(delay) => write!(f, "after {delay:.1?}"),
        }
    }
}

/// Whoever was not killed says that the guest may be on either side.
fn says_that_it_does_not_know(outcome: &Outcome) -> Result<()> {
    let codes = outcome.codes();
    for code in [codes.0, codes.1].into_iter().flatten() {
        ensure!(code == 4, "it runs nowhere, and a program knows: {outcome}");
    }
    Ok(())
}

/// The programs are gone. A person types `cont` at the QEMU that does not run the guest, and does not
/// start it a second time.
fn starts_nowhere_else(guest: &Guest<'_>, outcome: &Outcome) -> Result<()> {
    let other = match outcome.place {
        Place::Target => &guest.qemu,
        _ => &outcome.target,
    };
    if !other.is_running() {
        return Ok(());
    }
    sleep(HELD_AFTER);
    let obeyed = other.execute("cont", json!({})).is_ok();
    ensure!(
        !runs(other),
        "'cont' ({obeyed}) starts a second guest: {outcome}{}",
        other.output()
    );
    Ok(())
}

#[test]
fn a_campaign_of_faults() -> Result<()> {
    let images = require!(guest_images());
    {
        // Some cases cut a link.
        let bed = Bed::new()?;
        drop(require!(NetPair::new(&bed, None)));
        bed.finish();
    }
    let wanted = number("PAGELIFT_TEST_FAULTS")?;
    let first = match wanted {
        Some(_) => number("PAGELIFT_TEST_SEED")?.unwrap_or_default(),
        None => seed()?,
    };
    let is_wanted = |case: &Case| wanted.is_some() || case.strike.lasts() <= Some(FEW.1);
    let cases = (first..).map(Case::new).filter(is_wanted);
    let cases: Vec<_> = cases.take(wanted.unwrap_or(FEW.0) as usize).collect();
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst) as usize) {
                    let ended = case.run(&images);
                    sum.lock().expect("no panic").add(case, case.row(), ended);
                }
            });
        }
    });
    let sum = sum.into_inner().expect("no panic");
    eprintln!("{} cases in {:.0?}\n{sum}", cases.len(), began.elapsed());
    let failed = sum.failed.len();
    ensure!(failed == 0, "{failed} cases failed: {:#?}", sum.failed);
    Ok(())
}
