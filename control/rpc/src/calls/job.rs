//! Calls about the job of a guest, while it moves and afterwards.

use crate::declare::{procedures, xdr_structs};
use crate::params::Params;
use crate::types::Domain;

use super::domain::DomainFlagsArgs;

xdr_structs! {
    /// How far a job is: bytes, and times in milliseconds.
    JobInfo {
        /// 0 none, 1 bounded, 2 unbounded, 3 completed, 4 failed, 5 cancelled.
        kind: i32,
        /// Since it began.
        time_elapsed: u64,
        /// Until it ends, if that is known.
        time_remaining: u64,
        /// All of it.
        data_total: u64,
        /// What is done.
        data_processed: u64,
        /// What is to be done.
        data_remaining: u64,
        /// Of memory: all of it.
        memory_total: u64,
        /// Of memory: what is done.
        memory_processed: u64,
        /// Of memory: what is to be done.
        memory_remaining: u64,
        /// Of disks: all of it.
        file_total: u64,
        /// Of disks: what is done.
        file_processed: u64,
        /// Of disks: what is to be done.
        file_remaining: u64,
    }

    /// How far a job is, or how it went.
    JobStats {
        /// As [`JobInfo::kind`].
        kind: i32,
        /// By name.
        params: Params,
    }

    /// A guest, a number and flags.
    DomainNumberArgs {
        /// The guest.
        domain: Domain,
        /// MiB/s, milliseconds or bytes, as the procedure says.
        number: u64,
        /// Depends on the procedure.
        flags: u32,
    }
}

/// Of [`DomainGetJobStats`]: the job that has ended, not the one that runs.
pub const STATS_COMPLETED: u32 = 1;
/// Of [`DomainGetJobStats`]: the statistics are to be kept for the next who asks.
pub const STATS_KEEP_COMPLETED: u32 = 2;

procedures! {
    JOB;

    /// How far the job is.
    DomainGetJobInfo = 163, Domain => JobInfo;
    /// Aborts the job.
    DomainAbortJob = 164, Domain => ();
    /// Sets the downtime allowed, in milliseconds.
    DomainMigrateSetMaxDowntime = 166, DomainNumberArgs => ();
    /// Sets the rate, in MiB/s.
    DomainMigrateSetMaxSpeed = 207, DomainNumberArgs => ();
    /// The rate that was set, in MiB/s.
    DomainMigrateGetMaxSpeed = 242, DomainFlagsArgs => u64;
    /// How far the job is, or how the last one went.
    DomainGetJobStats = 298, DomainFlagsArgs => JobStats;
    /// The size of the cache of XBZRLE, in bytes.
    DomainMigrateGetCompressionCache = 299, DomainFlagsArgs => u64;
    /// Sets the size of the cache of XBZRLE, in bytes.
    DomainMigrateSetCompressionCache = 300, DomainNumberArgs => ();
    /// Goes on with post-copy.
    DomainMigrateStartPostCopy = 364, DomainFlagsArgs => ();
    /// The downtime allowed, in milliseconds.
    DomainMigrateGetMaxDowntime = 387, DomainFlagsArgs => u64;
    /// Aborts the job; 1 also in post-copy.
    DomainAbortJobFlags = 442, DomainFlagsArgs => ();
}
