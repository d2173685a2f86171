//! What is seen of the vCPUs.

use std::time::Duration;

use crate::units::{Instant, PageCount};

/// What is seen of the vCPUs at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct VcpuLook {
    /// The moment.
    pub now: Instant,
    /// Processor time that each vCPU has used since it began, in the order of their index.
    pub ran: Vec<Duration>,
    /// Distinct pages written since the last harvest (or since tracking began).
    pub written: PageCount,
    /// Pages that each vCPU has written since tracking began, if somebody counts; a page that
    /// is written again after a harvest counts again.
    pub written_by: Option<Vec<u64>>,
    /// What was done beside looking.
    pub kind: LookKind,
}

/// What happens to the marks of written pages when they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookKind {
    /// Nothing.
    Between,
    /// They are cleared, and `written` begins at 0 again; the round goes on.
    HarvestWithin,
    /// The same, and the round is over.
    RoundEnd,
}
