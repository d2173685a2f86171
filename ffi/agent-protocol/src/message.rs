//! The messages themselves: requests of the client, replies of the agent.

use crate::MAX_ERROR_TEXT_BYTES;
use crate::bytes::{DecodeError, Reader, frame};
use crate::hold::HoldLease;
use crate::journal::{JournalEntry, RecordRequest};
use crate::rollback::RollbackScript;
use crate::throttle::{Lease, ThrottleRequest};

const HELLO: u16 = 0x0001;
const GET_USERFAULTFD: u16 = 0x0002;
const SET_ROLLBACK: u16 = 0x0003;
const CLEAR_ROLLBACK: u16 = 0x0004;
const THROTTLE: u16 = 0x0005;
const RENEW: u16 = 0x0006;
const HOLD: u16 = 0x0010;
const RECORD: u16 = 0x0011;
const GET_JOURNAL: u16 = 0x0012;
const REPLY: u16 = 0x8000;
const ERROR: u16 = 0xffff;

/// Flag of the reply to GET_USERFAULTFD: opened with `UFFD_USER_MODE_ONLY`.
const FLAG_USER_MODE_ONLY: u32 = 1 << 0;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Asks for the agent's version and features.
    Hello,
    /// A userfaultfd of QEMU's address space.
    GetUserfaultfd,
    /// Keep this rollback script, in place of an earlier one.
    SetRollback(RollbackScript),
    /// Forget the rollback script.
    ClearRollback,
    /// Stop these threads for a share of the time, in place of what was asked before.
    Throttle(ThrottleRequest),
    /// Go on throttling for so long.
    Renew(Lease),
    /// The guest may stand still for so long from now on.
    Hold(HoldLease),
    /// Keep this in the journal.
    Record(RecordRequest),
    /// What the journal says.
    GetJournal,
}

impl Request {
    /// The bytes of the whole message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello => frame(HELLO, &[]),
            Self::GetUserfaultfd => frame(GET_USERFAULTFD, &[]),
            Self::SetRollback(script) => frame(SET_ROLLBACK, &script.encode()),
            Self::ClearRollback => frame(CLEAR_ROLLBACK, &[]),
            Self::Throttle(throttle) => frame(THROTTLE, &throttle.encode()),
            Self::Renew(lease) => frame(RENEW, &lease.millis().to_le_bytes()),
            Self::Hold(lease) => frame(HOLD, &lease.millis().to_le_bytes()),
            Self::Record(record) => frame(RECORD, &record.encode()),
            Self::GetJournal => frame(GET_JOURNAL, &[]),
        }
    }

    /// Reads the payload of a request of type `kind`.
    ///
    /// # Errors
    /// When the type is unknown or the payload breaks a rule of the format. The bytes of the
    /// message are accounted for, so the stream can be followed further.
    pub fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let request = match kind {
            HELLO => Self::Hello,
            GET_USERFAULTFD => Self::GetUserfaultfd,
            SET_ROLLBACK => Self::SetRollback(RollbackScript::decode(&mut reader)?),
            CLEAR_ROLLBACK => Self::ClearRollback,
            THROTTLE => Self::Throttle(ThrottleRequest::decode(&mut reader)?),
            RENEW => Self::Renew(Lease::new(reader.u32()?)?),
            HOLD => Self::Hold(HoldLease::decode(&mut reader)?),
            RECORD => Self::Record(RecordRequest::decode(&mut reader)?),
            GET_JOURNAL => Self::GetJournal,
            _ => return Err(DecodeError::UnknownType(kind)),
        };
        reader.finish()?;
        Ok(request)
    }
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Who the agent is.
    Hello(AgentInfo),
    /// A userfaultfd travels with this message.
    Userfaultfd(LentUserfaultfd),
    /// The rollback script is kept.
    RollbackSet,
    /// There is no rollback script any more.
    RollbackCleared,
    /// The threads are throttled as asked.
    Throttled,
    /// The throttling goes on.
    Renewed,
    /// The guest may stand still for so long.
    Held,
    /// It is in the journal.
    Recorded,
    /// What was recorded last, if anything.
    Journal(Option<JournalEntry>),
    /// The request was not carried out.
    Error(ErrorReply),
}

/// The agent's answer to HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentInfo {
    /// The newest version of the protocol that the agent speaks.
    pub version: u16,
    /// QEMU's process id as QEMU sees it, which differs from outside a pid namespace.
    pub pid: u32,
    /// What the agent offers: `FEATURE_` bits; bits not known to a client mean nothing to it.
    pub features: u64,
}

/// What is known of the userfaultfd that travels with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LentUserfaultfd {
    /// The kernel gave only one with `UFFD_USER_MODE_ONLY`. Asynchronous write-protect
    /// tracking works with it; faults raised inside the kernel (by KVM or vhost, say) are not
    /// delivered, so that post-copy does not.
    pub user_mode_only: bool,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReply {
    /// The kind of error, for programs.
    pub code: ErrorCode,
    /// What was wrong and what to do about it, for people.
    pub text: String,
}

/// The kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorCode {
    /// 1: another client is connected.
    Busy,
    /// 3: the agent does not know this type of request.
    UnknownRequest,
    /// 4: the request breaks the format.
    Malformed,
    /// 5: the kernel gives no userfaultfd.
    NoUserfaultfd,
    /// 6: a thread that is not there, or one that must not be stopped.
    NoThread,
    /// 7: nothing is throttled that could be renewed; the lease was over.
    NoLease,
    /// 8: the system does not let the agent throttle.
    CannotThrottle,
    /// 9: QEMU does not listen on this monitor.
    NoMonitor,
    /// 10: the rollback script of the client before is still running; ten seconds at most.
    Undoing,
    /// 11: the lease of the guest's stop was over: the guest has been let go on.
    LeaseOver,
    /// 12: a record that would take a promise back.
    AgainstPromise,
    /// Any other number: a kind that this side does not know.
    Other(u16),
}

impl ErrorCode {
    fn number(self) -> u16 {
        match self {
            Self::Busy => 1,
            Self::UnknownRequest => 3,
            Self::Malformed => 4,
            Self::NoUserfaultfd => 5,
            Self::NoThread => 6,
            Self::NoLease => 7,
            Self::CannotThrottle => 8,
            Self::NoMonitor => 9,
            Self::Undoing => 10,
            Self::LeaseOver => 11,
            Self::AgainstPromise => 12,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Busy,
            3 => Self::UnknownRequest,
            4 => Self::Malformed,
            5 => Self::NoUserfaultfd,
            6 => Self::NoThread,
            7 => Self::NoLease,
            8 => Self::CannotThrottle,
            9 => Self::NoMonitor,
            10 => Self::Undoing,
            11 => Self::LeaseOver,
            12 => Self::AgainstPromise,
            other => Self::Other(other),
        }
    }
}

impl Reply {
    /// The bytes of the whole message. The text of an error is cut to its cap.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => {
                let mut payload = Vec::with_capacity(16);
                payload.extend_from_slice(&hello.version.to_le_bytes());
                payload.extend_from_slice(&0u16.to_le_bytes());
                payload.extend_from_slice(&hello.pid.to_le_bytes());
                payload.extend_from_slice(&hello.features.to_le_bytes());
                frame(REPLY | HELLO, &payload)
            }
            Self::Userfaultfd(userfaultfd) => {
                let flags = if userfaultfd.user_mode_only {
                    FLAG_USER_MODE_ONLY
                } else {
                    0
                };
                frame(REPLY | GET_USERFAULTFD, &flags.to_le_bytes())
            }
            Self::RollbackSet => frame(REPLY | SET_ROLLBACK, &[]),
            Self::RollbackCleared => frame(REPLY | CLEAR_ROLLBACK, &[]),
            Self::Throttled => frame(REPLY | THROTTLE, &[]),
            Self::Renewed => frame(REPLY | RENEW, &[]),
            Self::Held => frame(REPLY | HOLD, &[]),
            Self::Recorded => frame(REPLY | RECORD, &[]),
            Self::Journal(entry) => {
                frame(REPLY | GET_JOURNAL, &JournalEntry::encode(entry.as_ref()))
            }
            Self::Error(error) => {
                let mut end = error.text.len().min(MAX_ERROR_TEXT_BYTES);
                while !error.text.is_char_boundary(end) {
                    end -= 1;
                }
                let mut payload = error.code.number().to_le_bytes().to_vec();
                payload.extend_from_slice(&error.text.as_bytes()[..end]);
                frame(ERROR, &payload)
            }
        }
    }

    /// Reads the payload of a reply of type `kind`.
    ///
    /// # Errors
    /// When the type is unknown or the payload breaks a rule of the format.
    pub fn decode(kind: u16, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload);
        let reply = match kind {
            k if k == REPLY | HELLO => {
                let version = reader.u16()?;
                // Reserved: zero today, not looked at, so that it may gain a meaning.
                reader.u16()?;
                Self::Hello(AgentInfo {
                    version,
                    pid: reader.u32()?,
                    features: reader.u64()?,
                })
            }
            k if k == REPLY | GET_USERFAULTFD => Self::Userfaultfd(LentUserfaultfd {
                user_mode_only: reader.u32()? & FLAG_USER_MODE_ONLY != 0,
            }),
            k if k == REPLY | SET_ROLLBACK => Self::RollbackSet,
            k if k == REPLY | CLEAR_ROLLBACK => Self::RollbackCleared,
            k if k == REPLY | THROTTLE => Self::Throttled,
            k if k == REPLY | RENEW => Self::Renewed,
            k if k == REPLY | HOLD => Self::Held,
            k if k == REPLY | RECORD => Self::Recorded,
            k if k == REPLY | GET_JOURNAL => Self::Journal(JournalEntry::decode(&mut reader)?),
            ERROR => {
                let code = ErrorCode::from_number(reader.u16()?);
                let text = reader.rest();
                if text.len() > MAX_ERROR_TEXT_BYTES {
                    return Err(DecodeError::Field("error text", "must fit in 4096 bytes"));
                }
                let text = std::str::from_utf8(text)
                    .map_err(|_| DecodeError::Field("error text", "must be UTF-8"))?;
                Self::Error(ErrorReply {
                    code,
                    text: text.to_owned(),
                })
            }
            _ => return Err(DecodeError::UnknownType(kind)),
        };
        reader.finish()?;
        Ok(reply)
    }
}
