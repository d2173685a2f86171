//! The rollback script: what the agent does at QEMU's monitor when its client is gone.

use crate::bytes::{DecodeError, Reader};
use crate::step::RollbackStep;
use crate::{MAX_PATH_BYTES, MAX_PAYLOAD_BYTES, MAX_STEPS};

/// Steps that undo a migration whose client is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackScript {
    qmp_path: Vec<u8>,
    steps: Vec<RollbackStep>,
}

impl RollbackScript {
    /// A script that takes `steps` at QEMU's monitor socket `qmp_path`.
    ///
    /// # Errors
    /// When a part breaks the limits of the format.
    pub fn new(qmp_path: Vec<u8>, steps: Vec<RollbackStep>) -> Result<Self, DecodeError> {
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
        if steps.is_empty() || steps.len() > MAX_STEPS {
            return Err(DecodeError::Field("step list", "must have 1 to 64 steps"));
        }
        steps.iter().try_for_each(RollbackStep::check)?;
        let script = Self { qmp_path, steps };
        if script.encode().len() > MAX_PAYLOAD_BYTES {
            return Err(DecodeError::Field(
                "rollback script",
                "must fit in 64 KiB; use fewer steps",
            ));
        }
        Ok(script)
    }

    /// Absolute path of the monitor's unix socket: at most [`MAX_PATH_BYTES`], without a zero.
    pub fn qmp_path(&self) -> &[u8] {
        &self.qmp_path
    }

    /// The steps, in the order in which they are to be taken.
    pub fn steps(&self) -> &[RollbackStep] {
        &self.steps
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let path_bytes = u16::try_from(self.qmp_path.len()).expect("paths are capped at 107 bytes");
        bytes.extend_from_slice(&path_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.qmp_path);
        let count = u16::try_from(self.steps.len()).expect("there are at most 64 steps");
        bytes.extend_from_slice(&count.to_le_bytes());
        for step in &self.steps {
            step.encode(&mut bytes);
        }
        bytes
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let path_bytes = usize::from(reader.u16()?);
        let qmp_path = reader.take(path_bytes)?.to_vec();
        let count = usize::from(reader.u16()?);
        let mut steps = Vec::with_capacity(count.min(MAX_STEPS));
        for _ in 0..count {
            steps.push(RollbackStep::decode(reader)?);
        }
        Self::new(qmp_path, steps)
    }
}
