//! A guest that is sent again and again, and what strikes it on the way.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pagelift_tests::run::Run;
use pagelift_tests::{Qemu, SerialLog, process};
use rustix::process::Signal;
use serde_json::json;

use crate::ground::{Ground, Stop, Strike, THROTTLED};
use crate::verdict::{Outcome, Place};
use crate::watch::{runs, signal};

/// A guest and its story.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) ground: &'a Ground<'a>,
    pub(crate) qemu: Qemu,
    /// The consoles of the hosts before.
    pub(crate) past: Vec<SerialLog>,
}

/// An attempt under way.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The sender's.
    pub(crate) options: Vec<&'static str>,
    pub(crate) target: Qemu,
    pub(crate) sender: Run,
    pub(crate) receiver: Run,
}

/// Nothing was struck: there was no guest, or a program did not get to where it was to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotStruck;

impl fmt::Display for NotStruck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing was struck")
    }
}

impl<'a> Guest<'a> {
    pub(crate) fn new(ground: &'a Ground<'a>, qemu: Qemu) -> Self {
        Self {
            ground,
            qemu,
            past: Vec::new(),
        }
    }

    /// Sends the guest to a fresh target, and strikes when `stop` is reached.
    pub(crate) fn struck_at(&self, stop: Stop, strike: Strike) -> Result<Outcome> {
        let mut attempt = self.begin(Some(stop))?;
        match stop {
            Stop::Sender(_) => attempt.sender.wait_stopped(),
            Stop::Receiver(_) => attempt.receiver.wait_stopped(),
        }
        .context(NotStruck)?;
        let struck = Instant::now();
        self.strike(strike, &mut attempt)?;
        // A signal sent before comes first, and one that was killed does not hear this.
        if !matches!(strike, Strike::HangSender(_)) {
            signal(&mut attempt.sender, Signal::CONT)?;
        }
        if !matches!(strike, Strike::HangReceiver(_)) {
            signal(&mut attempt.receiver, Signal::CONT)?;
        }
        self.watch(struck, Some(strike), attempt)
    }

    /// Sends the guest to a fresh target, and strikes after `delay`: that of a busy guest is from
    /// when it is throttled.
    pub(crate) fn struck_after(&self, delay: Duration, strike: Strike) -> Result<Outcome> {
        let mut attempt;
        if self.ground.is_busy() {
            attempt = self.begin(Some(THROTTLED))?;
            attempt.sender.wait_stopped()?;
            signal(&mut attempt.sender, Signal::CONT)?;
        } else {
            attempt = self.begin(None)?;
        }
        sleep(delay);
        let struck = Instant::now();
        self.strike(strike, &mut attempt)?;
        self.watch(struck, Some(strike), attempt)
    }

    /// Sends the guest to a fresh target, which must succeed.
    pub(crate) fn moves(&mut self) -> Result<()> {
        let outcome = self.watch(Instant::now(), None, self.begin(None)?)?;
        ensure!(outcome.codes() == (Some(0), Some(0)), "{outcome}");
        self.settle(outcome).map(drop)
    }

    /// Sends the guest to `target`.
    pub(crate) fn sent_to(&self, target: Qemu) -> Result<Outcome> {
        let attempt = self.begin_to(target, None)?;
        self.watch(Instant::now(), None, attempt)
    }

    fn begin(&self, stop: Option<Stop>) -> Result<Attempt> {
        self.begin_to(self.ground.target(|builder| builder)?, stop)
    }

    fn begin_to(&self, target: Qemu, stop: Option<Stop>) -> Result<Attempt> {
        let options = self.ground.next_options();
        let (sender, receiver) = self.ground.programs(&self.qemu, &target, &options, stop)?;
        Ok(Attempt {
            options,
            target,
            sender,
            receiver,
        })
    }

    /// Does what the programs advise if they do not know, checks that the guest is whole, and
    /// goes on with it from where it is.
    pub(crate) fn settle(&mut self, outcome: Outcome) -> Result<Place> {
        let place = match outcome.place {
            Place::Neither => self.end_doubt(&outcome.target)?,
            place => place,
        };
        match place {
            Place::Source => {}
            Place::Target => {
                let source = std::mem::replace(&mut self.qemu, outcome.target);
                self.past.push(source.log());
            }
            Place::Neither => bail!("it was settled, and the guest runs nowhere"),
            Place::Lost => bail!("the guest is lost"),
        }
        if outcome.place == Place::Neither {
            // Disks of a guest that was given up are its target's: nobody touches them.
            self.buffer_no_disk()?;
        }
        self.check()?;
        Ok(place)
    }

    /// Both programs have ended, and the guest runs nowhere. Nobody can start it by `cont`; one
    /// command ends the doubt. If the target's QEMU was killed that takes a person, who knows it.
    pub(crate) fn end_doubt(&self, target: &Qemu) -> Result<Place> {
        let sides = [Some(&self.qemu), target.is_running().then_some(target)];
        for qemu in sides.into_iter().flatten() {
            let phase = self.ground.recorded(qemu)?;
            if phase == "handed-over" {
                self.ground.says_unknown(qemu)?;
            }
            let refused = qemu.execute("cont", json!({})).is_err();
            let open = ["prepared", "handed-over", "released"].contains(&phase.as_str());
            ensure!(
                refused || !open,
                "'cont' is obeyed although it is {phase}: {}",
                qemu.output()
            );
            if !refused {
                qemu.execute("stop", json!({}))?;
            }
        }
        let source = self.qemu.qmp_path();
        let options = match target.is_running() {
            true => vec!["--to".into(), target.qmp_path()],
            false => vec!["--fenced".into()],
        };
        self.ground.settled(&source, &options)?;
        let places = (runs(&self.qemu), runs(target));
        match places {
            (true, false) => Ok(Place::Source),
            (false, true) => Ok(Place::Target),
            _ => bail!("it was settled, and runs on source and target: {places:?}"),
        }
    }

    /// Whether what was struck can be sent again from where it is.
    pub(crate) fn can_go_on(&self, place: Place) -> bool {
        match place {
            Place::Source => true,
            // In a network of its own, the other side has no way back.
            Place::Target => self.ground.is_one_host(),
            Place::Neither | Place::Lost => false,
        }
    }

    /// Sends the guest to a fresh target, and has the sender hang when it is throttled until it is
    /// not any more. It may be lost to the receiver by then, or move on.
    pub(crate) fn let_go_while_the_sender_hangs(&self) -> Result<Outcome> {
        let mut attempt = self.begin(Some(THROTTLED))?;
        attempt.sender.wait_stopped()?;
        self.wait_throttled(false)?;
        signal(&mut attempt.sender, Signal::CONT)?;
        self.watch(Instant::now(), None, attempt)
    }

    /// What can be seen of it while a round is under way: whether it is tracked, and how many of
    /// its disks go through the page cache.
    pub(crate) fn seen_meanwhile(&self) -> Result<(bool, usize)> {
        let mut attempt = self.begin(Some(Stop::Sender("first-round")))?;
        attempt.sender.wait_stopped()?;
        let is_tracked = process::is_tracked(self.qemu.qemu_pid()?)?;
        let buffered = self.disks(false)?.len();
        signal(&mut attempt.sender, Signal::INT)?;
        signal(&mut attempt.sender, Signal::CONT)?;
        let outcome = self.watch(Instant::now(), None, attempt)?;
        ensure!(outcome.place == Place::Source, "{outcome}");
        Ok((is_tracked, buffered))
    }
}
