//! The demo's second process: its start, its messages and its end.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{DemoOptions, TargetMessage};

/// The second process, killed when this is dropped.
pub(super) struct TargetProcess {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl TargetProcess {
    pub(super) fn start(options: &DemoOptions) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut child = Command::new(program)
            .arg("demo-target")
            .args(["--memory", &options.memory.0.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the target process")?;
        let stdout = child
            .stdout
            .take()
            .context("the target process has no stdout")?;
        Ok(Self {
            child,
            stdout: BufReader::new(stdout),
        })
    }

    /// Its next message.
    pub(super) fn receive(&mut self) -> Result<TargetMessage> {
        let mut line = String::new();
        self.stdout
            .read_line(&mut line)
            .context("reading from the target process")?;
        if line.is_empty() {
            bail!("the target process ended early");
        }
        serde_json::from_str(&line)
            .with_context(|| format!("unexpected output of the target process: {line:?}"))
    }
}

impl Drop for TargetProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
