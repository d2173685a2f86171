//! Throttling of threads by the agent: a lease, kept only as long as it is renewed.

use std::time::Duration;

use pagelift_agent_protocol::{
    DecodeError, FEATURE_SHORT_PERIODS, Lease, MAX_STOPPED_PERMILLE, Reply, Request, ThreadShare,
    ThrottleRequest,
};

use pagelift_engine::converge::ThrottleShare;

use super::{AgentClient, AgentError};

// The agent takes every share that there is.
const _: () = assert!(ThrottleShare::MOST.as_permille() == MAX_STOPPED_PERMILLE);

/// Shortest period of an agent without [`FEATURE_SHORT_PERIODS`].
const OLD_PERIOD_MIN: Duration = Duration::from_millis(1);

impl AgentClient {
    /// Has each thread stopped for its share of the time, once in `period`: 0.5 to 50 ms, counted
    /// in microseconds (an agent without [`FEATURE_SHORT_PERIODS`] is given no less than 1 ms). A
    /// stop is never longer than 10 ms. Takes the place of what was asked before; threads not
    /// named any more run at once.
    ///
    /// The ids are those that QEMU knows: [`vcpu_threads`](crate::driver::qemu::vcpu_threads).
    ///
    /// The agent releases all by itself unless this or [`renew`](Self::renew) is called again
    /// within `lease` (10 ms to 60 s, counted in milliseconds), or when this connection ends.
    ///
    /// # Errors
    /// [`AgentError::BadThrottle`] beyond these limits, a refusal that names the threads that are
    /// not there (all stays as it was) or what keeps the agent from throttling (all is
    /// released), and as every request.
    pub fn throttle(
        &mut self,
        threads: &[(u32, ThrottleShare)],
        period: Duration,
        lease: Duration,
    ) -> Result<(), AgentError> {
        let shares = threads
            .iter()
            .map(|&(tid, share)| ThreadShare {
                tid,
                stopped_permille: share.as_permille(),
            })
            .collect();
        let features = match self.features {
            Some(features) => features,
            None => self.hello()?.features,
        };
        let period = match features & FEATURE_SHORT_PERIODS {
            0 => period.max(OLD_PERIOD_MIN),
            _ => period,
        };
        // What no u32 holds is beyond the limits.
        let period_us = u32::try_from(period.as_micros()).unwrap_or(u32::MAX);
        let throttle = lease_of(lease)
            .and_then(|lease| ThrottleRequest::new(shares, period_us, lease))
            .map_err(AgentError::BadThrottle)?;
        self.call_throttle(throttle)
    }

    /// Lets the throttle last for `lease` from now.
    ///
    /// # Errors
    /// A refusal with the code `NoLease` when it was over, and as [`throttle`](Self::throttle).
    pub fn renew(&mut self, lease: Duration) -> Result<(), AgentError> {
        let lease = lease_of(lease).map_err(AgentError::BadThrottle)?;
        match self.call(&Request::Renew(lease))? {
            (Reply::Renewed, _) => Ok(()),
            (other, _) => Err(self.unexpected("RENEW", &other)),
        }
    }

    /// Lets all threads run at full speed; they do when this returns.
    ///
    /// # Errors
    /// As every request. The lease ends the throttle then.
    pub fn release(&mut self) -> Result<(), AgentError> {
        self.call_throttle(ThrottleRequest::none())
    }

    fn call_throttle(&mut self, throttle: ThrottleRequest) -> Result<(), AgentError> {
        match self.call(&Request::Throttle(throttle))? {
            (Reply::Throttled, _) => Ok(()),
            (other, _) => Err(self.unexpected("THROTTLE", &other)),
        }
    }
}

fn lease_of(lease: Duration) -> Result<Lease, DecodeError> {
    Lease::new(u32::try_from(lease.as_millis()).unwrap_or(u32::MAX))
}
