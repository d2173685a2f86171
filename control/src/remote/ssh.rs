//! Where to go by ssh, and the source's side of starting a receiver there.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pagelift_engine::transport::RateCapped;
use pagelift_engine::{CancelToken, plain_text};
use pagelift_transports::{Security, link_through};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::arrival::Answer;
use super::{GuestCommand, RemoteError, message};
use crate::qmp::Address;

/// How long the other side may take to answer: somebody may have to type a password, QEMU has to start.
const PATIENCE: Duration = Duration::from_secs(180);

/// A host that is reached by ssh, and what is to be done there:
/// `ssh://[USER@]HOST[:PORT][?OPTION=VALUE&...]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshTarget {
    /// Whom to log in as, if not as ssh does by itself.
    pub user: Option<String>,
    /// The host, also one that ssh's configuration names.
    pub host: String,
    /// The port, if not the one that ssh takes by itself.
    pub port: Option<u16>,
    /// `receive=`: the program there, if `pagelift-receive` is not in PATH.
    pub receive: Option<String>,
    /// `qemu=`: QEMU there, if it is not what it is here.
    pub qemu: Option<String>,
    /// `dir=`: the folder that QEMU is started in there, if it is not that of here.
    pub dir: Option<PathBuf>,
    /// `qmp=`: the monitor of a QEMU that waits there already; none is started.
    pub qmp: Option<String>,
}

/// Why a text is no [`SshTarget`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address for ssh; write ssh://[USER@]HOST[:PORT], and behind it, if needed, \
     ?receive=PROGRAM, ?qemu=PROGRAM, ?dir=FOLDER, or ?qmp=PATH for a QEMU that waits there; with & \
     between them"
)]
pub struct SshTargetError(String);

impl FromStr for SshTarget {
    type Err = SshTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || SshTargetError(text.to_owned());
        let rest = text.strip_prefix("ssh://").ok_or_else(malformed)?;
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        let place = place.trim_end_matches('/');
        let (user, place) = match place.rsplit_once('@') {
            Some((user, place)) => (Some(user.to_owned()), place),
            None => (None, place),
        };
        let (host, port) = match place
            .strip_prefix('[')
            .and_then(|place| place.split_once(']'))
        {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(malformed)?)),
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let port = port.map(|port| port.parse().map_err(|_| malformed()));
        // ssh would take what begins with a dash for one of its options.
        let is_word = |word: &str| {
            let is_plain = |char: char| !char.is_whitespace() && !char.is_control();
            !word.is_empty() && !word.starts_with('-') && word.chars().all(is_plain)
        };
        if !is_word(host) || host.contains('/') || !user.as_deref().is_none_or(is_word) {
            return Err(malformed());
        }
        let mut target = Self {
            user,
            host: host.to_owned(),
            port: port.transpose()?,
            receive: None,
            qemu: None,
            dir: None,
            qmp: None,
        };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some((_, "")) | None => return Err(malformed()),
                Some(("receive", value)) => target.receive = Some(value.to_owned()),
                Some(("qemu", value)) => target.qemu = Some(value.to_owned()),
                Some(("dir", value)) => target.dir = Some(value.into()),
                Some(("qmp", value)) => target.qmp = Some(value.to_owned()),
                Some(_) => return Err(malformed()),
            }
        }
        Ok(target)
    }
}

impl fmt::Display for SshTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl SshTarget {
    /// ssh's command line: `ssh` with its own options first, then what is run there.
    fn command(&self, ssh: &[OsString], options: &[String]) -> Option<Command> {
        let (program, own) = ssh.split_first()?;
        let receive = self.receive.as_deref().unwrap_or("pagelift-receive");
        let mut there = vec![receive.to_owned()];
        match &self.qmp {
            Some(qmp) => there.extend(["--qmp".to_owned(), qmp.clone()]),
            None => there.push("--start".to_owned()),
        }
        there.extend(["--listen", "stdio:"].map(str::to_owned));
        there.extend_from_slice(options);
        let there: Vec<_> = there.iter().map(|word| quoted(word)).collect();
        // An interrupt from the terminal is for this process, which still has to say goodbye.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "trap '' INT\nexec \"$@\"", "sh"]);
        command.arg(program).args(own);
        command.args(["-T", "-e", "none", "-o", "ClearAllForwardings=yes"]);
        command.args(
            self.port
                .iter()
                .flat_map(|port| ["-p".into(), port.to_string()]),
        );
        command.args(self.user.iter().flat_map(|user| ["-l", user]));
        command.args(["--", &self.host]).arg(there.join(" "));
        Some(command)
    }
}

/// `word`, as sh(1) reads it as one.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A receiver that was started on another host, and the link to it.
pub struct SshLink {
    /// The link. What was started ends with it.
    pub link: Box<dyn RateCapped>,
}

impl fmt::Debug for SshLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SshLink")
    }
}

impl SshLink {
    /// Starts a receiver at `target`, by the command `ssh`, for the guest behind the monitor `qmp`.
    /// `options` are for the receiver. What it prints is given to `said`, line by line. `cancel` ends
    /// the waiting.
    ///
    /// # Errors
    /// When ssh does not get there within three minutes, or something is missing there. Nothing runs there
    /// then.
    pub fn start(
        target: &SshTarget,
        ssh: &[OsString],
        qmp: &Address,
        options: &[String],
        cancel: &CancelToken,
        said: impl Fn(&str) + Send + 'static,
    ) -> Result<Self, RemoteError> {
        let failed = |why: String| RemoteError::Ssh {
            target: target.to_string(),
            why,
        };
        let guest = match target.qmp {
            Some(_) => None,
            None => Some(target.adapt(GuestCommand::of(qmp)?)),
        };
        let mut command = target
            .command(ssh, options)
            .ok_or_else(|| failed("the command for ssh is empty".into()))?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let words = Words::default();
        if let Some(stderr) = child.stderr.take() {
            words.listen(stderr, said).map_err(|error| {
                give_up(&mut child);
                failed(error.to_string())
            })?;
        }
        if let Some(guest) = guest {
            let answer = ask(&mut child, &guest, cancel).map_err(|error| {
                failed(match error.kind() {
                    io::ErrorKind::InvalidData | io::ErrorKind::TimedOut => {
                        give_up(&mut child);
                        error.to_string()
                    }
                    _ => words.of_end(&mut child),
                })
            })?;
            if !answer.missing.is_empty() {
                give_up(&mut child);
                return Err(RemoteError::Missing {
                    target: target.to_string(),
                    what: answer
                        .missing
                        .iter()
                        .map(|what| plain_text::line(what))
                        .collect(),
                });
            }
        }
        // ssh has authenticated the host, and encrypts.
        let link = link_through(child, &target.to_string(), &Security::LocalOnly);
        let link = link.map_err(|error| failed(error.to_string()))?;
        Ok(Self { link })
    }
}

impl SshTarget {
    /// The command with what is otherwise there.
    fn adapt(&self, mut guest: GuestCommand) -> GuestCommand {
        if let (Some(qemu), Some(program)) = (&self.qemu, guest.run.command.first_mut()) {
            program.clone_from(qemu);
        }
        if let Some(dir) = &self.dir {
            guest.dir.clone_from(dir);
        }
        guest
    }
}

fn ask(child: &mut Child, guest: &GuestCommand, cancel: &CancelToken) -> io::Result<Answer> {
    if let Some(stdin) = &mut child.stdin {
        message::write(stdin, guest)?;
    }
    let stdout = child.stdout.as_mut().ok_or(io::ErrorKind::UnexpectedEof)?;
    message::read(&mut Patient {
        stdout,
        cancel,
        until: Instant::now() + PATIENCE,
    })
}

/// Standard output of a program that may never say anything.
struct Patient<'a> {
    stdout: &'a mut ChildStdout,
    cancel: &'a CancelToken,
    until: Instant,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        /// How often the token is looked at.
        const LOOK: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let end = |why: String| Err(io::Error::new(io::ErrorKind::TimedOut, why));
        loop {
            if self.cancel.is_cancelled() {
                return end("cancelled before the other side had answered".into());
            }
            if Instant::now() >= self.until {
                return end(format!("no answer from there within {PATIENCE:?}"));
            }
            let mut fds = [PollFd::new(self.stdout, PollFlags::IN)];
            match poll(&mut fds, Some(&LOOK)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return self.stdout.read(buffer),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The end of a program that has closed its output; it is killed if that does not come within a second.
fn ended_soon(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    child.wait().ok()
}

/// Ends a program whose answer makes no sense, or says no.
fn give_up(child: &mut Child) {
    // What it has started there ends with its connection.
    drop((child.stdin.take(), child.stdout.take()));
    let _ = child.kill();
    let _ = child.wait();
}

/// What ssh, and the program there, have said to their users: the last lines.
#[derive(Clone, Debug, Default)]
struct Words(Arc<Mutex<Vec<String>>>);

impl Words {
    /// Lines that are kept for an error.
    const KEPT: usize = 3;

    fn listen(&self, stderr: ChildStderr, said: impl Fn(&str) + Send + 'static) -> io::Result<()> {
        let kept = Arc::clone(&self.0);
        let listen = move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = plain_text::line(String::from_utf8_lossy(&line).trim_end());
                said(&line);
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push(line);
                let over = kept.len().saturating_sub(Self::KEPT);
                kept.drain(..over);
            }
        };
        thread::Builder::new()
            .name("pagelift-ssh".into())
            .spawn(listen)
            .map(drop)
    }

    /// Why a program has ended before it answered.
    fn of_end(&self, child: &mut Child) -> String {
        drop((child.stdin.take(), child.stdout.take()));
        let status = ended_soon(child);
        let why = match status.and_then(|status| status.code()) {
            Some(255) => "ssh does not get there".to_owned(),
            Some(127) => {
                "pagelift-receive is not in PATH there; install it, or name it: ?receive=PROGRAM"
                    .to_owned()
            }
            Some(code) => format!("pagelift-receive there ended with exit code {code}"),
            None => "ssh was killed".to_owned(),
        };
        // Its last words may be on their way.
        thread::sleep(Duration::from_millis(50));
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.is_empty() {
            true => why,
            false => format!("{why}: {}", kept.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let full: SshTarget = "ssh://me@host:22/?qemu=/opt/qemu&receive=/opt/r&dir=/vm"
            .parse()
            .unwrap();
        assert_eq!(full.to_string(), "ssh://me@host:22");
        assert_eq!(full.qemu.as_deref(), Some("/opt/qemu"));
        assert_eq!(full.receive.as_deref(), Some("/opt/r"));
        assert_eq!(full.dir, Some("/vm".into()));
        for text in ["ssh://host", "ssh://[::1]:2222", "ssh://a@[fe80::1%eth0]"] {
            assert_eq!(text.parse::<SshTarget>().unwrap().to_string(), text);
        }
        for text in [
            "ssh://",
            "ssh:host",
            "ssh://host:x",
            "ssh://-oProxyCommand=evil",
            "ssh://-l@host",
            "ssh://a b",
            "ssh://host/path",
            "ssh://host?other=1",
            "ssh://host?qemu=",
            "ssh://[::1]2",
        ] {
            assert_eq!(text.parse::<SshTarget>(), Err(SshTargetError(text.into())));
        }
    }

    #[test]
    fn what_runs_there_is_quoted_for_its_shell() {
        let target: SshTarget = "ssh://me@host:22?receive=/o'pt/$r".parse().unwrap();
        let command = target.command(&["ssh".into()], &["--x".into()]).unwrap();
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_str().unwrap())
            .collect();
        let at = words.iter().position(|word| *word == "--").unwrap();
        assert_eq!(
            words[at - 4..],
            [
                "-p",
                "22",
                "-l",
                "me",
                "--",
                "host",
                r"'/o'\''pt/$r' '--start' '--listen' 'stdio:' '--x'"
            ]
        );
    }
}
