//! Moving a QEMU guest with the programs under test.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::bed::Bed;
use crate::programs;
use crate::qemu::{Builder, Qemu};
use crate::run::{Finished, Run};
use crate::skip::Skip;

/// What is installed for another user.
const INSTALLED: [&str; 4] = [
    "libpagelift_agent.so",
    "pagelift",
    "pagelift-receive",
    "pagelift-send",
];

/// The token of [`Programs::with_token`].
const TOKEN: &str = "00112233445566778899aabbccddeeff";

/// The programs under test, and as whom they run.
#[derive(Clone, Debug)]
pub struct Programs {
    dir: PathBuf,
    /// Words in front of every command.
    prefix: Vec<OsString>,
    /// What they know each other by, if it is a token.
    token: Option<&'static str>,
}

/// Both ends of a migration, after it.
#[derive(Clone, Debug)]
pub struct Moved {
    /// `pagelift-send`.
    pub sent: Finished,
    /// `pagelift-receive`.
    pub received: Finished,
}

impl Programs {
    /// Those that were built, run by the user who runs the tests.
    pub fn built() -> Result<Self> {
        let pagelift = programs::program("pagelift")?;
        Ok(Self {
            dir: pagelift.parent().context("a folder")?.to_owned(),
            prefix: Vec::new(),
            token: None,
        })
    }

    /// The same, which know each other by a token.
    #[must_use]
    pub fn with_token(self) -> Self {
        Self {
            token: Some(TOKEN),
            ..self
        }
    }

    /// Copies that user and group `id` can run, without any privilege, in a bed that is given to
    /// them. Takes root.
    pub fn for_user(bed: &Bed, id: u32) -> Result<Self, Skip> {
        Self::install(bed, id).map_err(|error| Skip(format!("cannot run as user {id}: {error:#}")))
    }

    fn install(bed: &Bed, id: u32) -> Result<Self> {
        let dir = bed.dir().join("bin");
        fs::create_dir_all(&dir)?;
        for name in INSTALLED {
            fs::copy(programs::program(name)?, dir.join(name))?;
        }
        for path in [bed.dir().to_owned(), bed.runtime_dir()] {
            chown(&path, Some(id), Some(id)).with_context(|| format!("{}", path.display()))?;
        }
        let prefix = [
            "setpriv".to_owned(),
            format!("--reuid={id}"),
            format!("--regid={id}"),
            "--clear-groups".to_owned(),
            "--no-new-privs".to_owned(),
        ];
        let made = Self {
            dir,
            prefix: prefix.map(OsString::from).into(),
            token: None,
        };
        let tried = made.command(bed, "pagelift").arg("--version").output();
        let tried = tried.context("setpriv")?;
        anyhow::ensure!(
            tried.status.success(),
            "{}; are all folders above {} open to everybody?",
            String::from_utf8_lossy(&tried.stderr).trim(),
            made.dir.display()
        );
        Ok(made)
    }

    /// A command of one of them, marked as the bed's.
    pub fn command(&self, bed: &Bed, program: &str) -> Command {
        let mut words = self.prefix.clone();
        words.push(self.dir.join(program).into());
        let mut command = bed.command(&words[0]);
        command.args(&words[1..]);
        command.envs(self.token.map(|token| ("PAGELIFT_TOKEN", token)));
        command
    }

    /// Lets `pagelift run` start the QEMU.
    #[must_use]
    pub fn wrap<'a>(&self, qemu: Builder<'a>) -> Builder<'a> {
        qemu.prefix(&self.prefix)
            .prefix([self.dir.join("pagelift")])
            .prefix(["run", "--"])
    }

    /// The same, with the guest's memory in a file in `dir` that stays.
    #[must_use]
    pub fn wrap_keeping<'a>(&self, qemu: Builder<'a>, dir: &Path) -> Builder<'a> {
        qemu.prefix(&self.prefix)
            .prefix([self.dir.join("pagelift")])
            .prefix(["run", "--ram-dir"])
            .prefix([dir])
            .prefix(["--"])
    }

    /// The same, with the memory of the QEMU whose monitor is at `qmp`.
    #[must_use]
    pub fn wrap_borrowing<'a>(&self, qemu: Builder<'a>, qmp: &Path) -> Builder<'a> {
        qemu.prefix(&self.prefix)
            .prefix([self.dir.join("pagelift")])
            .prefix(["run", "--memory-of"])
            .prefix([qmp])
            .prefix(["--"])
    }

    /// Starts `pagelift-receive` for a QEMU; also gives the URI where it waits.
    pub fn receive(&self, bed: &Bed, qemu: &Qemu) -> Result<(Run, String)> {
        self.receive_with(bed, qemu, &[])
    }

    /// The same, with further options.
    pub fn receive_with(
        &self,
        bed: &Bed,
        qemu: &Qemu,
        options: &[&OsStr],
    ) -> Result<(Run, String)> {
        let mut command = self.command(bed, "pagelift-receive");
        command
            .arg("--qmp")
            .arg(qemu.qmp_path())
            .args(["--listen", "tcp://127.0.0.1:0", "--json"])
            .args(options);
        let mut run = Run::start(bed, "receive", command)?;
        let uri = run.wait_stderr(|text| {
            let (_, rest) = text.split_once("waiting on ")?;
            Some(rest.split_once(' ')?.0.to_owned())
        })?;
        Ok((run, uri))
    }

    /// Starts `pagelift-send` for a QEMU.
    pub fn send(&self, bed: &Bed, qemu: &Qemu, to: &str, options: &[&str]) -> Result<Run> {
        let mut command = self.command(bed, "pagelift-send");
        command
            .arg("--qmp")
            .arg(qemu.qmp_path())
            .args(["--to", to, "--json"])
            .args(options);
        Run::start(bed, "send", command)
    }

    /// Moves a guest; `options` are those of `pagelift-send`.
    ///
    /// # Errors
    /// When the source does not say that the guest has moved; the target is then killed.
    pub fn migrate(
        &self,
        bed: &Bed,
        source: &Qemu,
        target: &Qemu,
        options: &[&str],
    ) -> Result<Moved> {
        self.migrate_with(bed, source, target, options, &[])
    }

    /// The same; `receive_options` are those of `pagelift-receive`.
    ///
    /// # Errors
    /// As [`migrate`](Self::migrate).
    pub fn migrate_with(
        &self,
        bed: &Bed,
        source: &Qemu,
        target: &Qemu,
        options: &[&str],
        receive_options: &[&OsStr],
    ) -> Result<Moved> {
        let (mut receive, uri) = self.receive_with(bed, target, receive_options)?;
        let sent = self.send(bed, source, &uri, options)?.wait()?;
        // A source that ended before it connected leaves the target waiting for ever.
        if sent.code() != 0 {
            // The target's own words, should it have any.
            let words = receive.wait_stderr(|text| text.contains("error").then(|| text.to_owned()));
            bail!("{sent:?}; the target: {words:?}");
        }
        let received = receive.wait()?;
        Ok(Moved { sent, received })
    }
}
