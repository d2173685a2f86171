//! The messages themselves: requests of the client, replies of the agent.

use crate::bytes::{DecodeError, Reader, frame};
use crate::{
    MAX_COMMAND_BYTES, MAX_COMMANDS, MAX_ERROR_TEXT_BYTES, MAX_PATH_BYTES, MAX_PAYLOAD_BYTES,
};

const HELLO: u16 = 0x0001;
const GET_USERFAULTFD: u16 = 0x0002;
const SET_WILL: u16 = 0x0003;
const CLEAR_WILL: u16 = 0x0004;
const REPLY: u16 = 0x8000;
const ERROR: u16 = 0xffff;

/// Flag of the reply to GET_USERFAULTFD: opened with `UFFD_USER_MODE_ONLY`.
const FLAG_USER_MODE_ONLY: u32 = 1 << 0;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Who is there?
    Hello,
    /// A userfaultfd of QEMU's address space.
    GetUserfaultfd,
    /// Keep this will, in place of an earlier one.
    SetWill(Will),
    /// Forget the will.
    ClearWill,
}

impl Request {
    /// The bytes of the whole message.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello => frame(HELLO, &[]),
            Self::GetUserfaultfd => frame(GET_USERFAULTFD, &[]),
            Self::SetWill(will) => frame(SET_WILL, &will.encode()),
            Self::ClearWill => frame(CLEAR_WILL, &[]),
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
            SET_WILL => Self::SetWill(Will::decode(&mut reader)?),
            CLEAR_WILL => Self::ClearWill,
            _ => return Err(DecodeError::UnknownType(kind)),
        };
        reader.finish()?;
        Ok(request)
    }
}

/// What the agent is to do when the client's connection ends without notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    qmp_path: Vec<u8>,
    commands: Vec<String>,
}

impl Will {
    /// A will: at QEMU's monitor socket `qmp_path`, run `commands`, each the JSON text of one
    /// QMP command on one line.
    ///
    /// # Errors
    /// When a part breaks the limits of the format.
    pub fn new(qmp_path: Vec<u8>, commands: Vec<String>) -> Result<Self, DecodeError> {
        if qmp_path.is_empty() || qmp_path.len() > MAX_PATH_BYTES || qmp_path.contains(&0) {
            return Err(DecodeError::Field(
                "socket path",
                "must have 1 to 107 bytes, none of them zero; use a shorter path",
            ));
        }
        // QEMU's working directory is not the client's, and is `/` once it daemonized.
        if qmp_path.first() != Some(&b'/') {
            return Err(DecodeError::Field("socket path", "must be absolute"));
        }
        if commands.is_empty() || commands.len() > MAX_COMMANDS {
            return Err(DecodeError::Field(
                "command list",
                "must have 1 to 64 commands",
            ));
        }
        for command in &commands {
            if command.is_empty() || command.len() > MAX_COMMAND_BYTES {
                return Err(DecodeError::Field("command", "must have 1 to 16384 bytes"));
            }
            if command.contains(['\n', '\r', '\0']) {
                return Err(DecodeError::Field("command", "must be one line of text"));
            }
        }
        let will = Self { qmp_path, commands };
        if will.encode().len() > MAX_PAYLOAD_BYTES {
            return Err(DecodeError::Field(
                "will",
                "must fit in 64 KiB; use fewer commands",
            ));
        }
        Ok(will)
    }

    /// Absolute path of the monitor's unix socket: at most [`MAX_PATH_BYTES`], without a zero.
    pub fn qmp_path(&self) -> &[u8] {
        &self.qmp_path
    }

    /// The commands, in the order in which they are to run.
    pub fn commands(&self) -> &[String] {
        &self.commands
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let path_bytes = u16::try_from(self.qmp_path.len()).expect("paths are capped at 107 bytes");
        bytes.extend_from_slice(&path_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.qmp_path);
        let count = u16::try_from(self.commands.len()).expect("there are at most 64 commands");
        bytes.extend_from_slice(&count.to_le_bytes());
        for command in &self.commands {
            let length = u32::try_from(command.len()).expect("commands are capped at 16 KiB");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(command.as_bytes());
        }
        bytes
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let path_bytes = usize::from(reader.u16()?);
        let qmp_path = reader.take(path_bytes)?.to_vec();
        let count = usize::from(reader.u16()?);
        let mut commands = Vec::with_capacity(count.min(MAX_COMMANDS));
        for _ in 0..count {
            let length = usize::try_from(reader.u32()?).map_err(|_| DecodeError::Truncated)?;
            let text = std::str::from_utf8(reader.take(length)?)
                .map_err(|_| DecodeError::Field("command", "must be UTF-8"))?;
            commands.push(text.to_owned());
        }
        Self::new(qmp_path, commands)
    }
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Who the agent is.
    Hello(Hello),
    /// A userfaultfd travels with this message.
    Userfaultfd(Userfaultfd),
    /// The will is kept.
    WillSet,
    /// There is no will any more.
    WillCleared,
    /// The request was not carried out.
    Error(ErrorReply),
}

/// The agent's answer to HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The newest version of the protocol that the agent speaks.
    pub version: u16,
    /// QEMU's process id as QEMU sees it, which differs from outside a pid namespace.
    pub pid: u32,
    /// What the agent offers: `FEATURE_` bits; bits not known to a client mean nothing to it.
    pub features: u64,
}

/// What is known of the userfaultfd that travels with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Userfaultfd {
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
    /// 2: the client's user may not use the agent.
    NotAllowed,
    /// 3: the agent does not know this type of request.
    UnknownRequest,
    /// 4: the request breaks the format.
    Malformed,
    /// 5: the kernel gives no userfaultfd.
    NoUserfaultfd,
    /// Any other number: a kind that this side does not know.
    Other(u16),
}

impl ErrorCode {
    fn number(self) -> u16 {
        match self {
            Self::Busy => 1,
            Self::NotAllowed => 2,
            Self::UnknownRequest => 3,
            Self::Malformed => 4,
            Self::NoUserfaultfd => 5,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Busy,
            2 => Self::NotAllowed,
            3 => Self::UnknownRequest,
            4 => Self::Malformed,
            5 => Self::NoUserfaultfd,
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
            Self::WillSet => frame(REPLY | SET_WILL, &[]),
            Self::WillCleared => frame(REPLY | CLEAR_WILL, &[]),
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
                Self::Hello(Hello {
                    version,
                    pid: reader.u32()?,
                    features: reader.u64()?,
                })
            }
            k if k == REPLY | GET_USERFAULTFD => Self::Userfaultfd(Userfaultfd {
                user_mode_only: reader.u32()? & FLAG_USER_MODE_ONLY != 0,
            }),
            k if k == REPLY | SET_WILL => Self::WillSet,
            k if k == REPLY | CLEAR_WILL => Self::WillCleared,
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
