//! The throttle of a guest that leaves: what is in force, what does it, and what it came to.
//!
//! Invariants: a throttle under a lease is renewed well before that ends; one that slows QEMU's
//! own threads with the vCPUs is never in force while QEMU hands the guest over.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pagelift_engine::converge::{Interval, SwitchoverCosts, ThrottleShare};
use pagelift_engine::guest::{GuestError, Throttler};

use super::period::period_of;
use super::vcpus::{VcpuThreads, VcpuThrottled};
use super::{Actuator, AgentThrottle, CgroupMounts, CgroupThrottle, ThrottleError};
use crate::agent_client::AgentClient;

/// How long a throttle holds that is not renewed: that of a pagelift that hangs. One that is
/// killed releases the guest at once.
const LEASE: Duration = Duration::from_millis(600);

/// What throttles a guest.
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

/// What is to throttle a guest, found and not used yet.
#[derive(Debug)]
pub struct FoundThrottle {
    quotas: Option<CgroupThrottle>,
    pid: u32,
    threads: Vec<u32>,
}

impl FoundThrottle {
    /// Finds what `by` names, for the vCPUs that run in `threads` of process `pid`. Changes
    /// nothing.
    ///
    /// # Errors
    /// When quotas are to be used and cannot be.
    pub fn find(by: ThrottleBy, pid: u32, threads: Vec<u32>) -> Result<Self, ThrottleError> {
        let quotas = match by {
            ThrottleBy::Agent => None,
            ThrottleBy::Cgroup => {
                let mounts = CgroupMounts::of_host()?;
                Some(CgroupThrottle::find(&mounts, pid, &threads)?)
            }
        };
        Ok(Self {
            quotas,
            pid,
            threads,
        })
    }
}

#[derive(Debug)]
enum By {
    Agent(AgentThrottle),
    Cgroup(CgroupThrottle),
}

/// The throttle of one guest. Dropped, it lets the guest go.
#[derive(Debug)]
pub struct GuestThrottle {
    by: By,
    /// The shares in force, and when they were given.
    in_force: Option<(Vec<ThrottleShare>, Instant)>,
    vcpus: VcpuThreads,
}

impl GuestThrottle {
    /// Throttles by what was found: quotas, or else `agent`.
    pub fn new(found: FoundThrottle, agent: &Arc<Mutex<AgentClient>>) -> Self {
        let FoundThrottle {
            quotas,
            pid,
            threads,
        } = found;
        let together = quotas.as_ref().is_some_and(|quotas| !quotas.is_per_vcpu());
        let vcpus = VcpuThreads::new(pid, &threads, together);
        let by = match quotas {
            Some(quotas) => By::Cgroup(quotas),
            None => By::Agent(AgentThrottle::new(Arc::clone(agent), threads, LEASE)),
        };
        Self {
            by,
            in_force: None,
            vcpus,
        }
    }

    /// What throttles the guest when it must be, in words.
    pub fn describe(&self) -> String {
        match &self.by {
            By::Agent(_) => "the agent in QEMU".into(),
            By::Cgroup(quotas) => quotas.to_string(),
        }
    }

    /// Lets the guest run at full speed.
    pub fn release(&mut self) {
        self.in_force = None;
        self.actuator().release();
        self.vcpus.set_shares(&[], Instant::now());
    }

    /// To be called before QEMU is asked to stop the guest. A quota on its own threads would
    /// stretch every step of that, with the guest standing still in some of them.
    pub fn before_stop(&mut self) {
        if self.slows_qemu() {
            self.release();
        }
    }

    /// Keeps the throttle in force; to be called several times within a lease of 600 ms.
    ///
    /// # Errors
    /// When it is not in force any more.
    pub fn renew(&mut self) -> Result<(), GuestError> {
        match self.in_force.take() {
            Some((shares, given)) if given.elapsed() >= LEASE / 4 => self.apply(shares),
            in_force => {
                self.in_force = in_force;
                Ok(())
            }
        }
    }

    /// What [`before_stop`](Self::before_stop) makes of `costs`, those without a throttle.
    /// `None`: costs are to be measured, since no throttle is in force that touches them.
    pub fn costs(&self, costs: Option<SwitchoverCosts>) -> Option<SwitchoverCosts> {
        let (shares, _) = self.in_force.as_ref().filter(|_| self.slows_qemu())?;
        let costs = costs?;
        let most = shares.iter().copied().max().unwrap_or_default();
        let runs = 1.0 - most.as_fraction();
        // The guest runs on at full speed, and so writes as much as throttled in a longer time.
        let longer = |time: Duration| time.div_f64(runs);
        let on = costs.stop_latency;
        Some(SwitchoverCosts {
            stop_latency: Interval::new(longer(on.low()), longer(on.likely()), longer(on.high())),
            ..costs
        })
    }

    /// How each vCPU was throttled so far, in the order of their index.
    pub fn throttled(&self) -> Vec<VcpuThrottled> {
        self.vcpus.throttled(Instant::now())
    }

    fn slows_qemu(&self) -> bool {
        matches!(&self.by, By::Cgroup(quotas) if quotas.slows_qemu())
    }

    fn actuator(&mut self) -> &mut dyn Actuator {
        match &mut self.by {
            By::Agent(agent) => agent,
            By::Cgroup(quotas) => quotas,
        }
    }

    fn apply(&mut self, shares: Vec<ThrottleShare>) -> Result<(), GuestError> {
        let period = period_of(&shares);
        self.actuator()
            .apply(&shares, period)
            .map_err(|error| GuestError(error.to_string()))?;
        self.in_force = Some((shares, Instant::now()));
        Ok(())
    }
}

impl Throttler for GuestThrottle {
    fn throttle(&mut self, share: ThrottleShare) -> Result<(), GuestError> {
        self.throttle_vcpus(&vec![share; self.vcpus.count()])
    }

    fn throttle_vcpus(&mut self, shares: &[ThrottleShare]) -> Result<(), GuestError> {
        if shares.iter().all(|share| *share == ThrottleShare::NONE) {
            self.release();
            return Ok(());
        }
        self.apply(shares.to_vec())?;
        self.vcpus.set_shares(shares, Instant::now());
        Ok(())
    }

    fn vcpu_times(&mut self) -> Option<Vec<Duration>> {
        self.vcpus.times()
    }
}
