//! A throttle that hits where it must: which vCPU writes, and whose share is how large.
//!
//! A policy knows the guest as one thing and asks for one share. This module stands between it
//! and the guest. It is fed with what is seen of the vCPUs ([`VcpuLook`]), at every harvest and
//! a few times a second while the guest is throttled, and says what to do to each of them
//! ([`VcpuThrottle::shares`]):
//!
//! - who writes how much per second of its processor time is `regress`'s question, with an
//!   uncertainty: exactly where the embedder counts, otherwise from samples;
//! - how the reduction that the policy wants is reached at the least harm is `spread`'s.
//!
//! What regression needs is variation, and the throttle makes it: as long as nothing is known,
//! each half of the busy vCPUs in turn is not throttled (`explore`). When the answer is good enough, or plainly is not
//! to be had, that ends. Where it is not, all vCPUs are alike.
//!
//! **The effect is checked** (`trust`). If the guest writes more than the policy wanted although the costs
//! said otherwise, what was learned is wrong (the guest's scheduler has moved the writer, say):
//! it counts half from then on, and those who were spared are throttled as well, by a third of
//! the policy's share more each time, up to one share for all. Trust comes back more slowly.
//!
//! **Marks saturate** (`saturation`). Pages that were marked before an interval are not seen in it again. After
//! a harvest the marked pages are taken to grow as a power of the work done since, whose exponent
//! (1: every write goes to a new page) is fitted to the looks of each round. It need not be exact:
//! all that is decided depends on the ratios of costs, so that a factor which is the same for all
//! vCPUs, and changes little from look to look, changes nothing.
//!
//! Pure: reads no clock, does no I/O; the same looks give the same shares.

mod demand;
mod explore;
mod look;
mod matrix;
mod regress;
mod round;
mod saturation;
mod spread;
#[cfg(test)]
mod tests;
mod trust;

use std::time::Duration;

pub use look::{LookKind, VcpuLook};

use demand::Demand;
use regress::{Costs, Regression, SAMPLED_MOST};
use round::Round;
use saturation::Saturation;
use spread::{Vcpu, allowed, spread};
use trust::Trust;

use super::{ThrottleResponse, ThrottleShare};
use crate::units::{Instant, PageCount};

/// From one look to the next while shares differ.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The same while something is to be learned: a writer that is spared for that is soon caught.
const EXPLORE_INTERVAL: Duration = Duration::from_millis(50);

/// The same while all vCPUs are throttled alike.
const RARE_LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Intervals that are learned from: shorter ones say more of the noise than of the guest, and in
/// longer ones pages are written again and again.
const SHORTEST: Duration = Duration::from_millis(25);
const LONGEST: Duration = Duration::from_millis(400);

/// Until the next attempt to tell vCPUs apart after the first one that led to nothing: about five
/// times what that took. After each further one it is twice as long, up to the most.
const RETRY: Duration = Duration::from_millis(2500);
const RETRY_MOST: Duration = Duration::from_secs(40);

/// Rounds shorter than this are not worth an attempt: what it costs is more than what is left.
const ROUND_LEAST: Duration = Duration::from_millis(500);

/// Costs known as well as this, relative to themselves, are known.
const KNOWN: f64 = 0.4;

/// Largest standard deviation of what the guest would write under unequal shares, as a part of
/// what it is to write, for these to be used; and to go on being used.
const GOOD: f64 = 0.6;
const STILL_GOOD: f64 = 1.0;

/// What the shares rest on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// Too little is known, and until then nothing is tried.
    Alike { until: Instant },
    /// Shares differ so that something can be learned; looks so far.
    Exploring { looks: usize },
    /// The costs are good enough.
    Attributed,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct VcpuThrottle {
    wanted: ThrottleShare,
    most: ThrottleShare,
    mode: Mode,
    trust: Trust,
    regression: Regression,
    costs: Option<Costs>,
    saturation: Saturation,
    demand: Demand,
    last: Option<VcpuLook>,
    /// In force; empty: `wanted` for all.
    shares: Vec<ThrottleShare>,
    round: Round,
    /// How long nothing is tried after the next attempt that leads to nothing.
    retry: Duration,
    /// Attempts so far, so that no two use the same halves.
    attempts: u64,
}

impl Default for VcpuThrottle {
    /// Nothing is wanted, and nothing known.
    fn default() -> Self {
        Self {
            wanted: ThrottleShare::NONE,
            most: ThrottleShare::MOST,
            mode: Mode::Alike { until: Instant(0) },
            trust: Trust::default(),
            regression: Regression::new(0),
            costs: None,
            saturation: Saturation::default(),
            demand: Demand::default(),
            last: None,
            shares: Vec::new(),
            round: Round::default(),
            retry: RETRY,
            attempts: 0,
        }
    }
}

impl VcpuThrottle {
    /// The policy wants the effect that a throttle by `share` has on a guest whose vCPUs are all
    /// alike, with no vCPU throttled by more than `most`.
    pub fn want(&mut self, share: ThrottleShare, most: ThrottleShare) {
        self.wanted = share;
        self.most = most.max(share);
        // One that is let go and throttled again is a guest that has changed.
        if share == ThrottleShare::NONE {
            self.mode = Mode::Alike { until: Instant(0) };
            self.trust = Trust::default();
            self.retry = RETRY;
        }
        self.plan(self.last.as_ref().map_or(Instant(0), |last| last.now));
    }

    /// What the policy wants.
    pub fn wanted(&self) -> ThrottleShare {
        self.wanted
    }

    /// The share of each vCPU, in the order of the looks; `None`: [`wanted`](Self::wanted) for
    /// all of them.
    pub fn shares(&self) -> Option<&[ThrottleShare]> {
        Some(&*self.shares).filter(|shares| !shares.is_empty())
    }

    /// The share for all that would have had the effect of the shares that were in force between
    /// the last two harvests: what the policy is to be told. `None`: it was one share for all.
    pub fn effect(&self) -> Option<ThrottleShare> {
        self.round.effect()
    }

    /// What one share for all takes of the guest's work: by the demand of its vCPUs, those that
    /// write most counting most. Whoever was never looked at wants all that there is.
    pub fn response(&self) -> ThrottleResponse {
        let costs = self
            .costs
            .iter()
            .flat_map(|costs| costs.mean.iter().copied());
        self.demand.response(costs)
    }

    /// Time from the last look to the next, apart from those at harvests; `None`: nothing is
    /// throttled, or there is but one vCPU.
    pub fn look_after(&self) -> Option<Duration> {
        let several = self.last.as_ref().is_none_or(|last| last.ran.len() > 1);
        (self.wanted > ThrottleShare::NONE && several).then_some(match self.mode {
            Mode::Alike { .. } => RARE_LOOK_INTERVAL,
            Mode::Exploring { .. } => EXPLORE_INTERVAL,
            Mode::Attributed => LOOK_INTERVAL,
        })
    }

    /// Takes a look, after which the shares may be other ones.
    pub fn looked(&mut self, look: VcpuLook) {
        let now = look.now;
        match self.last.take() {
            Some(last) if last.ran.len() == look.ran.len() => {
                let time = now.since(last.now);
                if time < SHORTEST && look.kind == LookKind::Between {
                    self.last = Some(last);
                    return;
                }
                self.interval(time, &last, &look);
            }
            _ => {
                // The first look, or another number of vCPUs.
                let vcpus = look.ran.len();
                self.regression = Regression::new(vcpus);
                self.costs = None;
                self.demand = Demand::unknown(vcpus);
                self.round.of_vcpus(vcpus);
                self.shares.clear();
                self.mode = Mode::Alike { until: now };
            }
        }
        if look.kind == LookKind::RoundEnd {
            self.round_ended(now);
        }
        let written = match look.kind {
            LookKind::Between => look.written,
            LookKind::HarvestWithin | LookKind::RoundEnd => {
                self.saturation.harvested();
                PageCount(0)
            }
        };
        self.last = Some(VcpuLook { written, ..look });
        self.plan(now);
    }

    /// A round is over.
    fn round_ended(&mut self, now: Instant) {
        let vcpus = self.vcpus();
        if self.round.end(now, self.wanted, &vcpus) {
            self.trust.use_up();
        }
        match self.mode {
            _ if self.shares.is_empty() => {}
            Mode::Exploring { .. } => self.round.explores(),
            Mode::Alike { .. } | Mode::Attributed => self.round.differs(),
        }
    }

    /// Learns from the `time` between two looks.
    fn interval(&mut self, time: Duration, last: &VcpuLook, look: &VcpuLook) {
        let (now, seconds) = (look.now, time.as_secs_f64());
        let ran: Vec<f64> = (last.ran.iter().zip(&look.ran))
            .map(|(before, after)| after.saturating_sub(*before).as_secs_f64())
            .collect();
        self.round.add(&ran);
        if time >= SHORTEST {
            let share = |vcpu| self.shares.get(vcpu).copied().unwrap_or(self.wanted);
            self.demand.saw(seconds, &ran, share);
        }
        let means = self.costs.as_ref().map(|costs| &*costs.mean);
        let seen = self.saturation.seen(&ran, means, look.written);
        let in_force = self.vcpus();
        if let (Some(before), Some(after)) = (&last.written_by, &look.written_by) {
            let pages: Vec<f64> = (before.iter().zip(after))
                .map(|(before, after)| after.saturating_sub(*before) as f64)
                .collect();
            let now_writing = by_counts(in_force, &ran, &pages);
            self.check_effect(seconds, pages.iter().sum(), 1.0, &now_writing);
            self.regression.counted(now, &ran, &pages);
        } else {
            let new = look.written.0.saturating_sub(last.written.0) as f64;
            let Some(seen) = seen.filter(|_| time >= SHORTEST && time <= LONGEST) else {
                return;
            };
            self.check_effect(seconds, new / seen, seen, &in_force);
            self.regression.sampled(now, &ran, new / seen, seen);
        }
        self.costs = self.regression.costs();
        if let Mode::Exploring { looks } = &mut self.mode {
            *looks += 1;
        }
    }

    /// Each vCPU, if the costs are known.
    fn vcpus(&self) -> Vec<Vcpu> {
        let costs = self.costs.iter().flat_map(Costs::each);
        (costs.zip(self.demand.each()))
            .map(|((cost, sigma), demand)| Vcpu {
                cost,
                cost_most: cost + sigma,
                demand,
            })
            .collect()
    }

    /// Whether `pages` in `seconds`, of which the `seen`th part was seen, are what the policy
    /// wanted, if the shares were made for that.
    fn check_effect(&mut self, seconds: f64, pages: f64, seen: f64, vcpus: &[Vcpu]) {
        if self.mode != Mode::Attributed {
            return;
        }
        let wanted = allowed(self.wanted, vcpus) * seconds;
        if self.trust.saw(pages, wanted, seen) {
            self.regression.forget(1.0);
        }
    }

    /// Decides on the shares at `now`.
    fn plan(&mut self, now: Instant) {
        self.shares.clear();
        if self.wanted == ThrottleShare::NONE || self.demand.vcpus() < 2 {
            return;
        }
        if self.trust.is_used_up(now, self.retry) {
            self.regression.forget(3.0);
            self.give_up_for_now(now);
        }
        let limit = if self.mode == Mode::Attributed {
            STILL_GOOD
        } else {
            GOOD
        };
        if self.trust.is_there(now)
            && let Some(shares) = self.attributed(limit)
        {
            self.mode = Mode::Attributed;
            self.shares = shares;
            self.round.differs();
            return;
        }
        match self.mode {
            Mode::Alike { until } if now < until || self.round.length() < ROUND_LEAST => {}
            Mode::Alike { .. } | Mode::Attributed => {
                self.attempts += 1;
                self.mode = Mode::Exploring { looks: 0 };
            }
            Mode::Exploring { looks } => {
                let most = explore::looks_most(self.demand.busy().len());
                if looks >= most || self.are_alike() {
                    self.give_up_for_now(now);
                }
            }
        }
        let can_sample = self.demand.vcpus() <= SAMPLED_MOST;
        if let Mode::Exploring { looks } = self.mode
            && can_sample
        {
            let (vcpus, busy) = (self.demand.vcpus(), self.demand.busy());
            let (wanted, most) = (self.wanted, self.most);
            self.shares = explore::halves(vcpus, busy, wanted, most, self.attempts, looks);
            if !self.shares.is_empty() {
                self.round.explores();
            }
        }
    }

    /// An attempt has led to nothing.
    fn give_up_for_now(&mut self, now: Instant) {
        let until = now.after(self.retry);
        self.mode = Mode::Alike { until };
        self.retry = (self.retry * 2).min(RETRY_MOST);
    }

    /// Unequal shares, if what is known is good enough for them.
    fn attributed(&self, limit: f64) -> Option<Vec<ThrottleShare>> {
        let (costs, vcpus) = (self.costs.as_ref()?, self.vcpus());
        let mut shares = spread(self.wanted, self.most, &vcpus)?;
        let runs: Vec<f64> = (vcpus.iter().zip(&shares))
            .map(|(vcpu, share)| vcpu.runs(*share))
            .collect();
        if costs.sigma(&runs) > limit * allowed(self.wanted, &vcpus) {
            return None;
        }
        let least = ThrottleShare::fraction(self.wanted.as_fraction() * (1.0 - self.trust.level()));
        for share in &mut shares {
            *share = least.max(*share);
        }
        Some(shares)
    }

    /// Whether the busy vCPUs are known to be alike: nobody could be spared.
    fn are_alike(&self) -> bool {
        let vcpus = self.vcpus();
        let mut busy = vcpus.iter().filter(|vcpu| vcpu.demand > 0.0);
        let known = |vcpu: &Vcpu| vcpu.cost_most - vcpu.cost <= KNOWN * vcpu.cost;
        !vcpus.is_empty() && busy.all(known) && spread(self.wanted, self.most, &vcpus).is_none()
    }
}

/// The vCPUs with the costs that this interval alone shows, where they ran at all. What was counted
/// in long rounds says less of a cost than what is counted now: pages that are written twice
/// count once. So only who writes can be wrong, and not how much.
fn by_counts(vcpus: Vec<Vcpu>, ran: &[f64], pages: &[f64]) -> Vec<Vcpu> {
    let each = vcpus.into_iter().zip(ran.iter().zip(pages));
    each.map(|(vcpu, (ran, pages))| Vcpu {
        cost: if *ran > 0.0 { pages / ran } else { vcpu.cost },
        ..vcpu
    })
    .collect()
}
