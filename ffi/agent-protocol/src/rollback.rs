//! The rollback script: what the agent runs at QEMU's monitor when its client is gone.

use crate::bytes::{DecodeError, Reader};
use crate::{MAX_COMMAND_BYTES, MAX_COMMANDS, MAX_PATH_BYTES, MAX_PAYLOAD_BYTES};

/// QMP commands that undo a migration whose client is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackScript {
    qmp_path: Vec<u8>,
    commands: Vec<String>,
}

impl RollbackScript {
    /// A script that runs `commands` at QEMU's monitor socket `qmp_path`, each the JSON text of
    /// one QMP command on one line.
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
        let script = Self { qmp_path, commands };
        if script.encode().len() > MAX_PAYLOAD_BYTES {
            return Err(DecodeError::Field(
                "rollback script",
                "must fit in 64 KiB; use fewer commands",
            ));
        }
        Ok(script)
    }

    /// Absolute path of the monitor's unix socket: at most [`MAX_PATH_BYTES`], without a zero.
    pub fn qmp_path(&self) -> &[u8] {
        &self.qmp_path
    }

    /// The commands, in the order in which they are to run.
    pub fn commands(&self) -> &[String] {
        &self.commands
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
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

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
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
