//! Throttling by the agent inside QEMU: per vCPU, in milliseconds, and under a lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pagelift_engine::converge::ThrottleShare;

use super::{Actuator, ThrottleError, check_count};
use crate::agent_client::AgentClient;

/// Stops the vCPUs' threads by the agent.
///
/// The agent serves one connection, which the rollback script needs as well: it is shared. A
/// throttle must be applied again before its lease is over, best three times within it. When pagelift
/// dies, and when this is dropped, the guest is released.
#[derive(Debug)]
pub struct AgentThrottle {
    agent: Arc<Mutex<AgentClient>>,
    threads: Vec<u32>,
    lease: Duration,
    is_active: bool,
}

impl AgentThrottle {
    /// Throttles the vCPUs with the thread ids `threads`, in the order of their index
    /// ([`vcpu_threads`](crate::driver::qemu::vcpu_threads)), for `lease` from each throttle on:
    /// 10 ms to 60 s; half a second survives a busy host and lets the guest go soon.
    pub fn new(agent: Arc<Mutex<AgentClient>>, threads: Vec<u32>, lease: Duration) -> Self {
        Self {
            agent,
            threads,
            lease,
            is_active: false,
        }
    }
}

impl Actuator for AgentThrottle {
    /// # Errors
    /// As [`AgentClient::throttle`]. The throttle before stays if a thread is not there, and ends
    /// with its lease.
    fn apply(&mut self, shares: &[ThrottleShare], period: Duration) -> Result<(), ThrottleError> {
        check_count(shares, self.threads.len())?;
        // Several vCPUs may share a thread: it is slowed for the one that needs it most.
        let mut by_thread: BTreeMap<u32, ThrottleShare> = BTreeMap::new();
        for (&tid, &share) in self.threads.iter().zip(shares) {
            let most = by_thread.entry(tid).or_default();
            *most = share.max(*most);
        }
        let threads: Vec<(u32, ThrottleShare)> = by_thread.into_iter().collect();
        self.is_active = true;
        let mut agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        agent.throttle(&threads, period, self.lease)?;
        Ok(())
    }

    /// Returns when the agent has released all; if it does not answer, the lease does it.
    fn release(&mut self) {
        if std::mem::take(&mut self.is_active) {
            let mut agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
            // Nothing is left to try: a connection that fails has ended the throttle.
            let _ = agent.release();
        }
    }
}

impl Drop for AgentThrottle {
    fn drop(&mut self) {
        self.release();
    }
}
