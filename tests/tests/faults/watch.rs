//! Strikes, and what is seen of both QEMUs until both programs have ended.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pagelift_tests::run::Run;
use pagelift_tests::{PATIENCE, Qemu};
use rustix::process::{Pid, Signal, kill_process};

use crate::ground::Strike;
use crate::guest::{Attempt, Guest};
use crate::verdict::{Outcome, Place};

/// How long a user watches a receiver whose sender was killed: it waits for the sender to ask again,
/// or, if it was never greeted, for another one.
const PATIENT: Duration = Duration::from_secs(3);

/// The same where the sender has ended by itself: longer than a receiver waits in doubt.
const VERY_PATIENT: Duration = Duration::from_secs(30);

/// How long the agent may take for a rollback script after the sender is gone.
const ROLLBACK: Duration = Duration::from_secs(3);

/// The same after QEMU itself hung: as long as a script may take.
const LATE_ROLLBACK: Duration = Duration::from_secs(12);

impl Guest<'_> {
    /// Strikes an attempt.
    pub(crate) fn strike(&self, strike: Strike, attempt: &mut Attempt) -> Result<()> {
        match strike {
            Strike::Cut | Strike::CutFor(_) => self.ground.link()?.cut()?,
            Strike::HangReceiver(_) => signal(&mut attempt.receiver, Signal::STOP)?,
            Strike::HangSender(_) => signal(&mut attempt.sender, Signal::STOP)?,
            Strike::HangSourceQemu(_) => signal_qemu(&self.qemu, Signal::STOP)?,
            Strike::HangTargetQemu(_) => signal_qemu(&attempt.target, Signal::STOP)?,
            Strike::InterruptReceiver => signal(&mut attempt.receiver, Signal::INT)?,
            Strike::InterruptSender => signal(&mut attempt.sender, Signal::INT)?,
            Strike::KillReceiver => signal(&mut attempt.receiver, Signal::KILL)?,
            Strike::KillSender => signal(&mut attempt.sender, Signal::KILL)?,
            Strike::KillSourceQemu => self.qemu.kill(),
            Strike::KillTargetQemu => attempt.target.kill(),
        }
        Ok(())
    }

    /// What was to last for a time is over.
    fn undo(&self, strike: Option<Strike>, attempt: &mut Attempt) -> Result<()> {
        match strike {
            Some(Strike::CutFor(_)) => self.ground.link()?.mend(),
            Some(Strike::HangSender(_)) => signal(&mut attempt.sender, Signal::CONT),
            Some(Strike::HangReceiver(_)) => signal(&mut attempt.receiver, Signal::CONT),
            Some(Strike::HangSourceQemu(_)) => signal_qemu(&self.qemu, Signal::CONT),
            Some(Strike::HangTargetQemu(_)) => signal_qemu(&attempt.target, Signal::CONT),
            _ => Ok(()),
        }
    }

    /// Waits until both programs have ended, and says where the guest is then. At no moment may
    /// it run on both sides.
    pub(crate) fn watch(
        &self,
        struck: Instant,
        strike: Option<Strike>,
        mut attempt: Attempt,
    ) -> Result<Outcome> {
        let lasts = strike.and_then(Strike::lasts);
        let mut undo_at = lasts.map(|time| struck + time);
        let qemu_hangs = match strike {
            Some(Strike::HangSourceQemu(_)) => [true, false],
            Some(Strike::HangTargetQemu(_)) => [false, true],
            _ => [false; 2],
        };
        let rollback = match qemu_hangs {
            [false, false] => ROLLBACK,
            _ => LATE_ROLLBACK,
        };
        let (mut guest_after, mut ended_after) = (None, None);
        let (mut sender_gone, mut interrupted) = (None, false);
        let (mut still_since, mut stood) = (None, Duration::ZERO);
        let mut quiet_since = None;
        let place = loop {
            if undo_at.is_some_and(|at| Instant::now() >= at) {
                undo_at = None;
                self.undo(strike, &mut attempt)?;
            }
            // One that hangs does not answer, and runs nothing.
            let hangs = undo_at.map_or([false; 2], |_| qemu_hangs);
            let (before, source, target) = (
                !hangs[1] && runs(&attempt.target),
                !hangs[0] && runs(&self.qemu),
                !hangs[1] && runs(&attempt.target),
            );
            // One that ran before and after also ran in between, when the source was asked.
            ensure!(!(before && source && target), "it runs on both sides");
            if source || target {
                guest_after.get_or_insert_with(|| struck.elapsed());
                if let Some(since) = still_since.take() {
                    stood = stood.max(Instant::duration_since(&Instant::now(), since));
                }
            } else if hangs != [false; 2] {
                still_since = None;
            } else {
                still_since.get_or_insert_with(Instant::now);
            }
            if attempt.sender.ended()?.is_some() && undo_at.is_none() && !interrupted {
                let gone = *sender_gone.get_or_insert_with(Instant::now);
                let patience = match strike {
                    Some(Strike::InterruptSender | Strike::KillSender) => PATIENT,
                    _ => VERY_PATIENT,
                };
                if gone.elapsed() > patience {
                    interrupted = true;
                    signal(&mut attempt.receiver, Signal::INT)?;
                }
            }
            if attempt.sender.ended()?.is_some() && attempt.receiver.ended()?.is_some() {
                ended_after.get_or_insert_with(|| struck.elapsed());
                if target {
                    break Place::Target;
                } else if source {
                    break Place::Source;
                } else if !self.qemu.is_running() && undo_at.is_none() {
                    break Place::Lost;
                } else if undo_at.is_none() {
                    let quiet = *quiet_since.get_or_insert_with(Instant::now);
                    if quiet.elapsed() > rollback {
                        break Place::Neither;
                    }
                }
            } else if struck.elapsed() > PATIENCE + lasts.unwrap_or_default() {
                let (sender, receiver) = (attempt.sender.stderr(), attempt.receiver.stderr());
                bail!("they do not end\nsender: {sender}\nreceiver: {receiver}");
            }
            sleep(Duration::from_millis(5));
        };
        if undo_at.is_some() {
            self.undo(strike, &mut attempt)?;
        }
        if strike == Some(Strike::Cut) {
            self.ground.link()?.mend()?;
        }
        Ok(Outcome {
            options: attempt.options.join(" "),
            place,
            sender: attempt.sender.wait()?,
            receiver: attempt.receiver.wait()?,
            target: attempt.target,
            guest_after,
            ended_after: ended_after.unwrap_or_default(),
            stood,
        })
    }
}

/// Sends a signal to a program that has not ended.
pub(crate) fn signal(run: &mut Run, signal: Signal) -> Result<()> {
    match run.ended()? {
        Some(_) => Ok(()),
        None => run.signal(signal).context("signalling"),
    }
}

/// Sends a signal to a QEMU that lives.
fn signal_qemu(qemu: &Qemu, signal: Signal) -> Result<()> {
    if !qemu.is_running() {
        return Ok(());
    }
    let pid = i32::try_from(qemu.qemu_pid()?).ok().and_then(Pid::from_raw);
    Ok(kill_process(pid.context("a process id")?, signal)?)
}

/// Whether a QEMU lives and runs its guest.
pub(crate) fn runs(qemu: &Qemu) -> bool {
    qemu.is_running() && qemu.run_state().is_ok_and(|state| state == "running")
}
