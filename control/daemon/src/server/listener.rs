//! Sockets that clients connect to.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

use super::ServerError;
use super::stream::{Stream, Tls};
use super::tls;
use crate::config::Config;
use crate::session::Peer;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 64;

/// How long a socket may still be open that no daemon listens at.
const STALE_PATIENCE: Duration = Duration::from_secs(2);

/// A client that has connected.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) peer: Peer,
    pub(super) read_only: bool,
}

/// A socket that clients connect to.
#[derive(Debug)]
pub(super) struct Listener {
    place: String,
    door: Door,
}

#[derive(Debug)]
enum Door {
    Unix {
        socket: UnixListener,
        path: PathBuf,
        read_only: bool,
        allowed_uids: Vec<u32>,
    },
    Tcp(TcpListener),
    Tls(TcpListener, Arc<ServerConfig>),
}

/// All that the configuration asks for.
pub(super) fn all(config: &Config) -> Result<Vec<Listener>, ServerError> {
    let mut listeners = vec![
        unix(config.socket(), false, &config.unix.allowed_uids)?,
        unix(config.read_only_socket(), true, &[])?,
    ];
    for address in &config.tcp.listen {
        let (place, socket) = tcp(*address)?;
        let door = Door::Tcp(socket);
        listeners.push(Listener { place, door });
    }
    if !config.tls.listen.is_empty() {
        let certificates = tls::config(&config.tls)?;
        for address in &config.tls.listen {
            let (place, socket) = tcp(*address)?;
            let door = Door::Tls(socket, Arc::clone(&certificates));
            let place = format!("tls {place}");
            listeners.push(Listener { place, door });
        }
    }
    Ok(listeners)
}

fn unix(path: PathBuf, read_only: bool, allowed: &[u32]) -> Result<Listener, ServerError> {
    let place = path.display().to_string();
    let listen = || -> io::Result<UnixListener> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        remove_stale(&path)?;
        let socket = UnixListener::bind(&path)?;
        // Who may do more than look is decided by the user id, which the kernel knows.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = listen().map_err(|source| ServerError::Listen {
        place: place.clone(),
        source,
    })?;
    let mut allowed_uids = allowed.to_vec();
    allowed_uids.extend([0, rustix::process::geteuid().as_raw()]);
    let door = Door::Unix {
        socket,
        path,
        read_only,
        allowed_uids,
    };
    Ok(Listener { place, door })
}

/// Removes a socket that a daemon has left which is not there any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io::Error::other("there is something else than a socket"));
        }
        Ok(_) => {}
    }
    // A child that a daemon was starting when it was killed has its sockets until it becomes QEMU.
    let deadline = Instant::now() + STALE_PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Ok(_) => return Err(io::Error::other("another daemon listens there")),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return fs::remove_file(path);
            }
            Err(error) => return Err(error),
        }
    }
}

fn tcp(address: SocketAddr) -> Result<(String, TcpListener), ServerError> {
    let listen = || -> io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    let failed = |source| ServerError::Listen {
        place: address.to_string(),
        source,
    };
    let socket = listen().map_err(failed)?;
    let place = socket.local_addr().map_err(failed)?.to_string();
    Ok((place, socket))
}

impl Listener {
    /// The path, or the address with the port that was got.
    pub(super) fn place(&self) -> String {
        self.place.clone()
    }

    /// The next client, unless it is gone again or is not to come in.
    ///
    /// # Errors
    /// When the system cannot take another.
    pub(super) fn accept(&self) -> io::Result<Option<Accepted>> {
        match self.try_accept() {
            Ok(accepted) => Ok(accepted),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(error),
            },
        }
    }

    fn try_accept(&self) -> io::Result<Option<Accepted>> {
        match &self.door {
            Door::Unix {
                socket,
                read_only,
                allowed_uids,
                ..
            } => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(true)?;
                let credentials = rustix::net::sockopt::socket_peercred(&stream)?;
                let peer = Peer::Unix {
                    uid: credentials.uid.as_raw(),
                    pid: credentials.pid.as_raw_pid(),
                };
                if !read_only && !allowed_uids.contains(&credentials.uid.as_raw()) {
                    warn!(%peer, "may not change anything here: refused");
                    return Ok(None);
                }
                Ok(Some(Accepted {
                    stream: Stream::Unix(stream),
                    peer,
                    read_only: *read_only,
                }))
            }
            Door::Tcp(socket) => {
                let (stream, address) = accept_tcp(socket)?;
                Ok(Some(Accepted {
                    stream: Stream::Tcp(stream),
                    peer: Peer::Tcp(address),
                    read_only: false,
                }))
            }
            Door::Tls(socket, config) => {
                let (stream, address) = accept_tcp(socket)?;
                let session = ServerConnection::new(Arc::clone(config));
                let session = session.map_err(io::Error::other)?;
                Ok(Some(Accepted {
                    stream: Stream::Tls(Box::new(Tls::new(stream, session))),
                    peer: Peer::Tls(address),
                    read_only: false,
                }))
            }
        }
    }
}

fn accept_tcp(socket: &TcpListener) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    let (stream, address) = socket.accept()?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok((stream, address))
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.door {
            Door::Unix { socket, .. } => socket.as_fd(),
            Door::Tcp(socket) | Door::Tls(socket, _) => socket.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Door::Unix { path, .. } = &self.door {
            let _already_gone = fs::remove_file(path);
        }
    }
}
