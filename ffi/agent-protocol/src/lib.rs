//! Messages between pagelift (the client) and the agent inside QEMU.
//!
//! This crate turns messages into bytes and back. It opens no socket and passes no descriptor:
//! where a message travels with one, the field says so and the two ends see to it. It has no
//! dependency, so that the agent stays small, and allocates no more than the bytes at hand.
//!
//! # Transport
//! A stream socket without a name that anybody could connect to: the agent makes it under
//! [`SOCKET_FILE`], removes the file, and holds the inode. A client reaches it through
//! `/proc/PID/fd`, where the kernel lets it pass if it may look into QEMU as a debugger may
//! (`PTRACE_MODE_READ` of ptrace(2)). That is the whole authority: uids are not looked at.
//! The client sends requests, the agent answers each with exactly one reply, in order. The agent never
//! speaks first, except to send away a client it cannot serve: that one finds an [`ErrorReply`]
//! waiting, and then the end of the stream. A client whose first request is not there within
//! [`FIRST_REQUEST_LIMIT`] is sent away as well.
//!
//! # Bytes
//! All integers are little-endian. Every message begins with this header of 12 bytes:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic: `50 4c 41 47`, "PLAG" |
//! | 4 | 2 | version: [`VERSION`] |
//! | 6 | 2 | type |
//! | 8 | 4 | length of the payload that follows, at most [`MAX_PAYLOAD_BYTES`] |
//!
//! | type | message | payload |
//! |---|---|---|
//! | 0x0001 | HELLO | empty |
//! | 0x0002 | GET_USERFAULTFD | empty |
//! | 0x0003 | SET_ROLLBACK | u16 p, p bytes path, u16 n, n steps |
//! | 0x0004 | CLEAR_ROLLBACK | empty |
//! | 0x0005 | THROTTLE | u32 period us, u32 lease ms, u16 n, n times (u32 thread, u16 permille) |
//! | 0x0006 | RENEW | u32 lease ms |
//! | 0x0010 | HOLD | u32 lease ms |
//! | 0x0011 | RECORD | u128 session, u8 phase, u16 p, p bytes path |
//! | 0x0012 | GET_JOURNAL | empty |
//! | 0x8001 | reply to HELLO | u16 version, u16 zero, u32 process id, u64 feature bits |
//! | 0x8002 | reply to GET_USERFAULTFD | u32 flags; one descriptor as `SCM_RIGHTS` |
//! | 0x8003 | reply to SET_ROLLBACK | empty |
//! | 0x8004 | reply to CLEAR_ROLLBACK | empty |
//! | 0x8005 | reply to THROTTLE | empty |
//! | 0x8006 | reply to RENEW | empty |
//! | 0x8010 | reply to HOLD | empty |
//! | 0x8011 | reply to RECORD | empty |
//! | 0x8012 | reply to GET_JOURNAL | u8 0, or u8 1, u128 session, u8 phase, u64 ms since it was recorded |
//! | 0xffff | error, in place of any reply | u16 code, then the text to the end, UTF-8 |
//!
//! Path: absolute, of a monitor that QEMU itself listens on, 1 to [`MAX_PATH_BYTES`] bytes, no
//! zero byte; the agent refuses another with [`ErrorCode::NoMonitor`]. Steps: 1 to [`MAX_STEPS`]
//! of them, together within the payload; there are no others than these:
//!
//! | u8 | step | fields |
//! |---|---|---|
//! | 1 | cancel the migration | |
//! | 2 | let the guest go on | |
//! | 3 | set capabilities | u8 n, n times (name, u8 0 or 1) |
//! | 4 | set parameters | u8 n, n times (name, value) |
//! | 5 | let a disk bypass the page cache again | name of its node |
//!
//! Name: u8 length, 1 to [`MAX_NAME_BYTES`] bytes of letters, digits and `-._#`. Value: u8 1 and
//! a u64, or u8 2 and a u8 0 or 1, or u8 3 and a text: u8 length, so many bytes of UTF-8 without
//! control characters. Error text: at most [`MAX_ERROR_TEXT_BYTES`].
//!
//! Throttle: at most [`MAX_THREADS`] threads, each named once, ids from 1 on as QEMU sees them
//! (`thread-id` of query-cpus-fast); permille of the time in which the thread is stopped, 0 to
//! [`MAX_STOPPED_PERMILLE`]; period in [`PERIOD_US`], lease in [`LEASE_MS`]. It replaces the one
//! before. With n = 0 it ends all throttling, and period and lease are not looked at.
//! Unless THROTTLE or RENEW come again within the lease, or when the connection ends, the agent
//! ends all throttling by itself; a RENEW that comes later is error [`ErrorCode::NoLease`].
//!
//! Hold: the lease of the guest's stop, in [`HOLD_MS`]; it takes a rollback script that is set. A
//! client that neither renews it nor clears the script within that time is cut off from QEMU, as
//! if it had ended, hears [`ErrorCode::LeaseOver`], and the script runs.
//!
//! Record: phases are those of [`JournalPhase`]. The path is empty, or that of the monitor at which
//! QEMU is held should the client end in doubt. A record that would take a promise back is refused
//! with [`ErrorCode::AgainstPromise`]. To record that the guest is handed over ends lease and
//! script in the same step. Journals are kept as long as QEMU lives.
//!
//! # QEMU's monitor
//! The agent runs the steps of a rollback script at QEMU's monitor; [`monitor`] finds out what a
//! line there is.
//!
//! # Growth
//! A request of a type that the agent does not know is answered with error
//! [`ErrorCode::UnknownRequest`] and the connection goes on: a newer client learns so what an
//! older agent lacks. New requests therefore keep the version; it changes only with the header
//! or with the meaning of a message above. Bits of the reply to HELLO announce what is there.

use std::ops::RangeInclusive;
use std::time::Duration;

mod bytes;
mod hold;
mod journal;
mod message;
pub mod monitor;
mod rollback;
mod step;
mod throttle;

pub use bytes::DecodeError;
pub use hold::HoldLease;
pub use journal::{JournalEntry, JournalPhase, NO_SESSION, RecordRequest};
pub use message::{AgentInfo, ErrorCode, ErrorReply, LentUserfaultfd, Reply, Request};
pub use rollback::RollbackScript;
pub use step::{Name, ParameterValue, RollbackStep};
pub use throttle::{Lease, ThreadShare, ThrottleRequest};

/// First four bytes of every message, as a little-endian number: "PLAG".
pub const MAGIC: u32 = 0x4741_4c50;

/// Version of the format described here.
pub const VERSION: u16 = 2;

/// Size of the header in bytes.
pub const HEADER_BYTES: usize = 12;

/// Longest payload of any message, in bytes. What a peer claims beyond it is refused unread.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// Longest path of a unix socket in bytes: `sun_path` less its final zero, unix(7).
pub const MAX_PATH_BYTES: usize = 107;

/// Most steps in one rollback script.
pub const MAX_STEPS: usize = 64;

/// Longest name of a setting or of a disk's node, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Longest text of an error in bytes; longer ones are cut at a character when encoded.
pub const MAX_ERROR_TEXT_BYTES: usize = 4 << 10;

/// Most threads in one throttle: the most vCPUs that a machine of QEMU's has.
pub const MAX_THREADS: usize = 4096;

/// Largest share of the time in which a thread may be stopped, in permille.
pub const MAX_STOPPED_PERMILLE: u16 = 990;

/// One stop and one run of a throttled thread together, in microseconds. An agent without
/// [`FEATURE_SHORT_PERIODS`] refuses less than 1000.
pub const PERIOD_US: RangeInclusive<u32> = 500..=50_000;

/// How long a throttle lasts without being renewed, in milliseconds.
pub const LEASE_MS: RangeInclusive<u32> = 10..=60_000;

/// How long a guest may be held still without a word of the client, in milliseconds.
pub const HOLD_MS: RangeInclusive<u32> = 10..=600_000;

/// Feature bit of HELLO: the agent answers GET_USERFAULTFD.
pub const FEATURE_USERFAULTFD: u64 = 1 << 0;

/// Feature bit of HELLO: the agent keeps a rollback script.
pub const FEATURE_ROLLBACK: u64 = 1 << 1;

/// Feature bit of HELLO: the agent throttles threads.
pub const FEATURE_THROTTLE: u64 = 1 << 2;

/// Feature bit of HELLO: the agent takes periods below 1000 us.
pub const FEATURE_SHORT_PERIODS: u64 = 1 << 3;

/// Feature bit of HELLO: the agent holds the guest's stop as a lease.
pub const FEATURE_HOLD: u64 = 1 << 8;

/// Feature bit of HELLO: the agent keeps a journal.
pub const FEATURE_JOURNAL: u64 = 1 << 9;

/// Name of the drive that keeps QEMU from running a guest in doubt.
pub const DOUBT_DRIVE: &str = "pagelift-doubt";

/// File name under which the agent binds its socket, for the moment until it removes the file.
///
/// The link of QEMU's descriptor in `/proc/PID/fd` ends with it and [`REMOVED`]. That is how a
/// client finds the descriptor, and no proof of anything: it compares the process id that
/// `SO_PEERCRED` gives with the one it meant, unix(7).
pub const SOCKET_FILE: &str = "pagelift-agent";

/// What the kernel puts behind the name of a removed file, proc_pid_fd(5).
pub const REMOVED: &str = " (deleted)";

/// How long a client may take for its first request before it loses its place.
pub const FIRST_REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type of the message, not yet known to be one that exists.
    pub kind: u16,
    /// Bytes of payload that follow, at most [`MAX_PAYLOAD_BYTES`].
    pub payload_bytes: usize,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// When the magic or the version is another's, or the payload would exceed the cap. The
    /// stream cannot be followed any further then.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, DecodeError> {
        let mut reader = bytes::Reader::new(bytes);
        let magic = reader.u32()?;
        if magic != MAGIC {
            return Err(DecodeError::Magic(magic));
        }
        let version = reader.u16()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let kind = reader.u16()?;
        let length = reader.u32()?;
        match usize::try_from(length) {
            Ok(payload_bytes) if payload_bytes <= MAX_PAYLOAD_BYTES => Ok(Self {
                kind,
                payload_bytes,
            }),
            _ => Err(DecodeError::PayloadTooLong(length)),
        }
    }
}
