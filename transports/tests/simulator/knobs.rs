//! Turns the knobs of a migration that runs, at the times that a plan says.

use std::time::Duration;

use pagelift_engine::converge::{AtDeadline, Downtime, Limits, PolicyKind, ThrottleShare};
use pagelift_engine::pipeline::Controls;
use pagelift_engine::units::{Instant, Rate};
use pagelift_transports::sim::SimRng;

use super::truth::Truth;

/// One turn of a knob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Policy(PolicyKind),
    Downtime(Downtime),
    Deadline(Option<Duration>, AtDeadline),
    MostThrottle(ThrottleShare),
    /// All at once.
    All(Limits),
    /// The cap on the rate.
    Bandwidth(Option<Rate>),
}

/// The turns that are still to come.
#[derive(Debug)]
pub struct Knobs {
    waiting: Vec<(Instant, Turn)>,
    controls: Controls,
}

impl Knobs {
    pub fn new(planned: &[(Duration, Turn)], controls: Controls, now: Instant) -> Self {
        let waiting = planned.iter().map(|(time, turn)| (now.after(*time), *turn));
        Self {
            waiting: waiting.collect(),
            controls,
        }
    }

    pub fn next_event(&self) -> Option<Instant> {
        self.waiting.iter().map(|(due, _)| *due).min()
    }

    /// What is due is turned.
    pub fn turn(&mut self, truth: &Truth) {
        let now = truth.now();
        while let Some(at) = self.waiting.iter().position(|(due, _)| *due <= now) {
            let (_, turn) = self.waiting.remove(at);
            truth.note(|| format!("knob: {turn:?}"));
            self.controls.change(|settings| {
                let limits = &mut settings.limits;
                match turn {
                    Turn::Policy(policy) => limits.policy = policy,
                    Turn::Downtime(downtime) => limits.downtime = downtime,
                    Turn::Deadline(deadline, action) => {
                        limits.deadline = deadline;
                        limits.at_deadline = action;
                    }
                    Turn::MostThrottle(share) => limits.throttle_most = Some(share),
                    Turn::All(all) => *limits = all,
                    Turn::Bandwidth(cap) => settings.bandwidth = cap,
                }
            });
        }
    }
}

/// What a user may ask of a migration in which a round of everything takes about `transfer`, and
/// a downtime with nothing to send about `least`, and that nobody wants to wait for longer than
/// `patience`.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    pub transfer: Duration,
    pub patience: Duration,
    pub least: Duration,
}

impl Wishes {
    pub fn limits(self, rng: &mut SimRng) -> Limits {
        let (deadline, at_deadline) = self.deadline(rng);
        Limits {
            policy: rng.pick(&PolicyKind::ALL),
            downtime: self.downtime(rng),
            deadline,
            at_deadline,
            throttle_most: rng
                .pick(&[Some(0), Some(300), None, Some(990)])
                .map(ThrottleShare::permille),
        }
    }

    pub fn turn(self, rng: &mut SimRng) -> Turn {
        match rng.below(5) {
            0 => Turn::Policy(rng.pick(&PolicyKind::ALL)),
            1 => Turn::Downtime(self.downtime(rng)),
            2 => {
                let (deadline, at_deadline) = self.deadline(rng);
                Turn::Deadline(deadline, at_deadline)
            }
            3 => Turn::MostThrottle(ThrottleShare::permille(rng.pick(&[0, 500, 990]))),
            _ => Turn::All(self.limits(rng)),
        }
    }

    fn downtime(self, rng: &mut SimRng) -> Downtime {
        let least = match rng.below(10) {
            // Never enough.
            0 => Duration::ZERO,
            _ => self.least + self.transfer.mul_f64(rng.unit() * 0.5),
        };
        let most = match rng.below(3) {
            0 => least + self.transfer.mul_f64(rng.unit()),
            _ => least,
        };
        Downtime::growing(least, most).expect("it is not the shorter one")
    }

    fn deadline(self, rng: &mut SimRng) -> (Option<Duration>, AtDeadline) {
        let deadline = match rng.below(8) {
            0 => Some(Duration::ZERO),
            1 => None,
            _ => Some(rng.time(self.patience)),
        };
        (deadline, rng.pick(&AtDeadline::ALL))
    }
}
