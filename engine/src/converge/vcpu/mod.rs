//! The throttle of each vCPU, where it is counted what each of them writes.
//!
//! A policy knows the guest as one thing and asks for one share. Where the dirty log says which vCPU
//! wrote a page (a KVM dirty ring belongs to one vCPU), [`VcpuThrottle`] turns that share into one
//! for each vCPU, with the same effect on what is written and the least work lost (`allocate`): the
//! vCPUs that write pay, those that only compute run on. Without counts all of them get the one
//! share. To find out who writes by experiment, from the writes of the whole guest under shares that
//! differ, was tried and costs more than it spares (docs/decisions/042).
//!
//! It is fed with [`VcpuSample`]s, at every harvest and, while the guest is throttled and its writes
//! are counted, [ten times a second](SAMPLE_INTERVAL): a writer that the guest's scheduler moves to
//! another vCPU is followed within about a second.

mod allocate;
mod counts;
mod demand;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::{ThrottleResponse, ThrottleShare};
use crate::units::Instant;
use allocate::{Vcpu, allocate, equal_share};
use counts::Counts;
use demand::Demand;

/// Time between two samples while shares may differ: a tenth of the time in which counts are
/// forgotten, so that the shares follow a writer that moves.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// Shortest time that says something of a vCPU's demand: the kernel accounts processor time in
/// ticks of up to 10 ms.
const SHORTEST: Duration = Duration::from_millis(25);

/// What is known of the vCPUs at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct VcpuSample {
    /// The moment.
    pub now: Instant,
    /// Processor time that each vCPU has used since it began, in the order of their index.
    pub ran: Vec<Duration>,
    /// Pages that each vCPU has written since tracking began; a page that is written again after a
    /// harvest counts again. `None`: not counted.
    pub written_by: Option<Vec<u64>>,
    /// Whether a round has ended.
    pub round_ended: bool,
}

/// The shares of the vCPUs of one guest; see the module.
#[derive(Clone, Debug, Default)]
pub struct VcpuThrottle {
    wanted: ThrottleShare,
    most: ThrottleShare,
    counts: Counts,
    demand: Demand,
    last: Option<VcpuSample>,
    /// In force; empty: `wanted` for all.
    shares: Vec<ThrottleShare>,
    round: Round,
}

/// The round under way, and the last one's effect.
#[derive(Clone, Debug, Default)]
struct Round {
    began: Instant,
    /// Seconds that each vCPU has run in it.
    ran: Vec<f64>,
    /// Whether shares differed in it.
    differed: bool,
    effect: Option<ThrottleShare>,
}

impl VcpuThrottle {
    /// The policy wants the effect of a throttle by `share` on all vCPUs, with none of them
    /// throttled by more than `most`.
    pub fn want(&mut self, share: ThrottleShare, most: ThrottleShare) {
        self.wanted = share;
        self.most = most.max(share);
        self.allocate();
    }

    /// What the policy wants.
    pub fn wanted(&self) -> ThrottleShare {
        self.wanted
    }

    /// The share of each vCPU, in the order of the samples; `None`: [`wanted`](Self::wanted) for
    /// all of them.
    pub fn shares(&self) -> Option<&[ThrottleShare]> {
        Some(&*self.shares).filter(|shares| !shares.is_empty())
    }

    /// The share for all that would have had the effect of the shares in force in the last round:
    /// what the policy is told. `None`: it was one share for all.
    pub fn effect(&self) -> Option<ThrottleShare> {
        self.round.effect
    }

    /// How the guest's work depends on one share for all, by the demand of its vCPUs, those that
    /// write most counting most. vCPUs without a sample want all that they can get.
    pub fn response(&self) -> ThrottleResponse {
        self.demand.response(self.counts.costs())
    }

    /// Time from the last sample to the next, beside those at harvests; `None`: no other is needed.
    pub fn sample_after(&self) -> Option<Duration> {
        (self.wanted > ThrottleShare::NONE && self.counts.costs().len() > 1)
            .then_some(SAMPLE_INTERVAL)
    }

    /// Takes a sample, after which the shares may be other ones.
    pub fn sample(&mut self, sample: VcpuSample) {
        let vcpus = sample.ran.len();
        match self.last.take() {
            Some(last) if last.ran.len() == vcpus => self.learn(&last, &sample),
            // The first one, or another number of vCPUs.
            _ => {
                self.counts = Counts::default();
                self.demand = Demand::unknown(vcpus);
                self.round = Round {
                    began: sample.now,
                    ran: vec![0.0; vcpus],
                    ..Round::default()
                };
            }
        }
        if sample.round_ended {
            self.end_round(sample.now);
        }
        self.last = Some(sample);
        self.allocate();
    }

    fn learn(&mut self, last: &VcpuSample, sample: &VcpuSample) {
        let time = sample.now.since(last.now);
        let ran: Vec<f64> = (last.ran.iter().zip(&sample.ran))
            .map(|(before, after)| after.saturating_sub(*before).as_secs_f64())
            .collect();
        for (sum, ran) in self.round.ran.iter_mut().zip(&ran) {
            *sum += ran;
        }
        if time >= SHORTEST {
            let share = |vcpu| self.shares.get(vcpu).copied().unwrap_or(self.wanted);
            self.demand.saw(time.as_secs_f64(), &ran, share);
        }
        if let (Some(before), Some(after)) = (&last.written_by, &sample.written_by) {
            let pages =
                (before.iter().zip(after)).map(|(before, after)| after.saturating_sub(*before));
            self.counts.add(time, &ran, pages);
        }
    }

    fn end_round(&mut self, now: Instant) {
        let seconds = now.since(self.round.began).as_secs_f64();
        let vcpus = self.vcpus();
        let runs: Vec<f64> = self.round.ran.iter().map(|ran| ran / seconds).collect();
        let known = self.round.differed && !vcpus.is_empty() && seconds > 0.0;
        self.round = Round {
            began: now,
            ran: vec![0.0; self.round.ran.len()],
            differed: !self.shares.is_empty(),
            effect: known.then(|| equal_share(&vcpus, &runs)),
        };
    }

    /// The vCPUs, as far as their writes are counted.
    fn vcpus(&self) -> Vec<Vcpu> {
        (self.counts.costs().iter().zip(self.demand.each()))
            .map(|(&cost, demand)| Vcpu { cost, demand })
            .collect()
    }

    fn allocate(&mut self) {
        self.shares = allocate(self.wanted, self.most, &self.vcpus()).unwrap_or_default();
        self.round.differed |= !self.shares.is_empty();
    }
}
