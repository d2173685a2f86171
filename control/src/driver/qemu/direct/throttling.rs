//! The throttle of a guest that leaves: who does it, what is in force, and what it came to.
//!
//! Invariants: a throttle under a lease is renewed well before that ends; one that slows QEMU's
//! own threads with the vCPUs is never in force while QEMU hands the guest over.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pagelift_engine::converge::{Interval, SwitchoverCosts, ThrottleShare};
use pagelift_engine::guest::{GuestError, Throttler};

use super::vcpus::{Throttled, Vcpus};
use crate::agent_client::AgentClient;
use crate::throttle::{
    AgentThrottle, CgroupMounts, CgroupThrottle, Permille, Throttle, ThrottleError, ThrottlePlan,
};

/// How long a throttle holds that is not renewed: that of a pagelift that hangs. One that is
/// killed releases the guest at once.
const LEASE: Duration = Duration::from_millis(600);

/// Who throttles a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThrottleBy {
    /// The agent in its QEMU, which stops the vCPUs' threads.
    #[default]
    Agent,
    /// The quotas of the cgroups that its QEMU is in.
    Cgroup,
}

impl ThrottleBy {
    /// Its name: `agent` or `cgroup`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Cgroup => "cgroup",
        }
    }
}

/// Finds the quotas of the vCPUs with the ids `threads` of process `pid`, if they are to be used.
/// Changes nothing.
///
/// # Errors
/// When they are to be used and cannot be.
pub(super) fn find(
    by: ThrottleBy,
    pid: u32,
    threads: &[u32],
) -> Result<Option<CgroupThrottle>, ThrottleError> {
    match by {
        ThrottleBy::Agent => Ok(None),
        ThrottleBy::Cgroup => {
            CgroupThrottle::find(&CgroupMounts::of_host()?, pid, threads).map(Some)
        }
    }
}

#[derive(Debug)]
enum Actuator {
    Agent(AgentThrottle),
    Cgroup(CgroupThrottle),
}

/// The throttle of one guest. Dropped, it lets the guest go.
#[derive(Debug)]
pub(super) struct Throttling {
    actuator: Actuator,
    /// The plan in force, and when it was given.
    plan: Option<(ThrottlePlan, Instant)>,
    vcpus: Vcpus,
}

impl Throttling {
    /// By `quotas`, or else by the agent; of the vCPUs that run in `threads` of process `pid`.
    pub(super) fn new(
        quotas: Option<CgroupThrottle>,
        agent: &Arc<Mutex<AgentClient>>,
        pid: u32,
        threads: Vec<u32>,
    ) -> Self {
        let together = quotas.as_ref().is_some_and(|quotas| !quotas.is_per_vcpu());
        let vcpus = Vcpus::new(pid, &threads, together);
        let actuator = match quotas {
            Some(quotas) => Actuator::Cgroup(quotas),
            None => Actuator::Agent(AgentThrottle::new(Arc::clone(agent), threads, LEASE)),
        };
        Self {
            actuator,
            plan: None,
            vcpus,
        }
    }

    /// In words: what throttles the guest when it must be.
    pub(super) fn describe(&self) -> String {
        match &self.actuator {
            Actuator::Agent(_) => "the agent in QEMU".into(),
            Actuator::Cgroup(quotas) => quotas.to_string(),
        }
    }

    /// Lets the guest run at full speed.
    pub(super) fn release(&mut self) {
        self.plan = None;
        self.actuator().release();
        self.vcpus.are_given(&[], Instant::now());
    }

    /// To be called before QEMU is asked to stop the guest. A quota on its own threads would
    /// stretch every step of that, with the guest standing still in some of them.
    pub(super) fn before_stop(&mut self) {
        if self.slows_qemu() {
            self.release();
        }
    }

    /// Keeps the plan in force.
    pub(super) fn renew(&mut self) -> Result<(), GuestError> {
        match self.plan.take() {
            Some((plan, given)) if given.elapsed() >= LEASE / 4 => self.apply(plan),
            plan => {
                self.plan = plan;
                Ok(())
            }
        }
    }

    /// What [`before_stop`](Self::before_stop) makes of `costs`, those without a throttle.
    /// `None`: costs are to be measured, since no throttle is in force that touches them.
    pub(super) fn costs(&self, costs: Option<SwitchoverCosts>) -> Option<SwitchoverCosts> {
        let (plan, _) = self.plan.as_ref().filter(|_| self.slows_qemu())?;
        let costs = costs?;
        let runs = f64::from(1000 - plan.max_share().get()) / 1000.0;
        // The guest runs on at full speed, and so writes as much as throttled in a longer time.
        let longer = |time: Duration| time.div_f64(runs);
        let on = costs.stop_latency;
        Some(SwitchoverCosts {
            stop_latency: Interval::new(longer(on.low()), longer(on.likely()), longer(on.high())),
            ..costs
        })
    }

    /// How each vCPU was throttled so far, in the order of their index.
    pub(super) fn throttled(&self) -> Vec<Throttled> {
        self.vcpus.throttled(Instant::now())
    }

    fn slows_qemu(&self) -> bool {
        matches!(&self.actuator, Actuator::Cgroup(quotas) if quotas.slows_qemu())
    }

    fn actuator(&mut self) -> &mut dyn Throttle {
        match &mut self.actuator {
            Actuator::Agent(agent) => agent,
            Actuator::Cgroup(quotas) => quotas,
        }
    }

    fn apply(&mut self, plan: ThrottlePlan) -> Result<(), GuestError> {
        self.actuator()
            .apply(&plan)
            .map_err(|error| GuestError(error.to_string()))?;
        self.plan = Some((plan, Instant::now()));
        Ok(())
    }
}

impl Throttler for Throttling {
    fn throttle(&mut self, share: ThrottleShare) -> Result<(), GuestError> {
        self.throttle_vcpus(&vec![share; self.vcpus.count()])
    }

    fn throttle_vcpus(&mut self, shares: &[ThrottleShare]) -> Result<(), GuestError> {
        if shares.iter().all(|share| *share == ThrottleShare::NONE) {
            self.release();
            return Ok(());
        }
        let permille = |share: &ThrottleShare| {
            Permille::new(share.as_permille())
                .ok_or_else(|| GuestError(format!("it cannot be throttled to {share}")))
        };
        let permilles = shares.iter().map(permille).collect::<Result<_, _>>()?;
        self.apply(ThrottlePlan::suited(permilles))?;
        self.vcpus.are_given(shares, Instant::now());
        Ok(())
    }

    fn vcpu_times(&mut self) -> Option<Vec<Duration>> {
        self.vcpus.times()
    }
}
