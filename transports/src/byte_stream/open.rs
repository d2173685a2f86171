//! Opening byte streams.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::net::sockopt::socket_acceptconn;

use super::{ByteStream, Carrier};

/// What a pipe to a program may hold, in bytes, where the kernel lets it (pipe(7)).
const PIPE_BYTES: usize = 1 << 20;

impl ByteStream {
    /// The socket that this process has open as `fd`. Its owner keeps it.
    ///
    /// # Errors
    /// When it is not open, or is no connected stream.
    #[allow(unsafe_code, reason = "a descriptor that the user names")]
    pub(crate) fn of_descriptor(fd: RawFd) -> io::Result<Self> {
        if fd < 0 {
            return Err(io::Error::other("no descriptor has such a number"));
        }
        // SAFETY: it is not -1, and borrowed for one call, which fails if it is not open.
        let given = unsafe { BorrowedFd::borrow_raw(fd) };
        let socket = rustix::io::fcntl_dupfd_cloexec(given, 3)?;
        if kind(&socket)? != FileType::Socket {
            return Err(io::Error::other(
                "it is no socket, and bytes must go both ways",
            ));
        }
        if socket_acceptconn(&socket)? {
            return Err(io::Error::other("it listens, and is no connection"));
        }
        let other = rustix::io::fcntl_dupfd_cloexec(&socket, 3)?;
        Self::new(calm(socket)?, calm(other)?, None, format!("fd:{fd}"))
    }

    /// Standard input and output. What this process prints to standard output from now on goes to
    /// standard error.
    ///
    /// # Errors
    /// When one of them is neither a pipe nor a socket.
    pub(crate) fn of_stdio() -> io::Result<Self> {
        let rx = calm(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?)?;
        let tx = calm(rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?)?;
        let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(null)?;
        rustix::stdio::dup2_stdout(io::stderr())?;
        Self::new(rx, tx, None, "stdio:".into())
    }

    /// The standard input and output of `command`, a command line for sh(1), which is started now.
    ///
    /// # Errors
    /// When no process can be made.
    pub(crate) fn of_command(command: &str) -> io::Result<Self> {
        // An interrupt from the terminal is for this process, which still has to say goodbye.
        let child = Command::new("/bin/sh")
            .args(["-c", "trap '' INT\nexec /bin/sh -c \"$1\"", "sh", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Self::of_child(child, format!("exec:{command}"))
    }

    /// The standard input and output of `child`, which are pipes. It is ended with the stream.
    ///
    /// # Errors
    /// When they are not.
    pub(crate) fn of_child(mut child: Child, name: String) -> io::Result<Self> {
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let carrier = Carrier::new(child);
        let no_pipe = || io::Error::other("its standard input or output is no pipe");
        let (stdin, stdout) = stdin.zip(stdout).ok_or_else(no_pipe)?;
        let (tx, rx) = (OwnedFd::from(stdin), OwnedFd::from(stdout));
        for end in [&tx, &rx] {
            // Only for speed: an unprivileged user has so much for a few pipes.
            let _ = rustix::pipe::fcntl_setpipe_size(end, PIPE_BYTES);
            rustix::io::ioctl_fionbio(end, true)?;
        }
        Self::new(rx.into(), tx.into(), Some(carrier), name)
    }
}

/// The same pipe or socket, which does not block. Others that have the pipe do not notice.
fn calm(fd: OwnedFd) -> io::Result<File> {
    match kind(&fd)? {
        FileType::Socket => {}
        FileType::Fifo => {
            // A description of its own, or the flag would be everybody's (fcntl(2)). One of another
            // user's cannot be opened again.
            let access = rustix::fs::fcntl_getfl(&fd)? & OFlags::RWMODE;
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
            if let Ok(own) = open(path, flags, Mode::empty()) {
                return Ok(own.into());
            }
        }
        _ => {
            return Err(io::Error::other(
                "standard input and output must be pipes or a socket; start this program by another \
                 one that carries the bytes, such as ssh",
            ));
        }
    }
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd.into())
}

fn kind(fd: impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode))
}
