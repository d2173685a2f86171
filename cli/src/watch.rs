//! Waits for a job, and shows its progress meanwhile.

use std::time::Duration;

use pagelift_engine::{Completed, Job};

use crate::own_memory::own_memory_bytes;

/// Time between two looks at the status.
const TICK: Duration = Duration::from_millis(50);

/// Waits until `job` has ended, and calls `show` with its status several times a second, the last time
/// at its end. Returns the most memory that this process has had meanwhile, in bytes.
pub fn watch<G: Send + 'static, R: Completed>(
    job: &Job<G, R>,
    mut show: impl FnMut(&R::Status),
) -> u64 {
    let mut peak = 0;
    loop {
        let has_ended = job.has_ended();
        if let Some(status) = job.status() {
            show(&status);
        }
        peak = peak.max(own_memory_bytes());
        if has_ended {
            return peak;
        }
        job.wait_event_for(TICK);
    }
}
