//! The receiving half of a TLS connection: establishes it, then decrypts.
//!
//! Whatever the connection below has to say about time ("nothing yet") is passed on, in the middle of
//! a handshake as well; the next read goes on where this one was.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use super::End;
use super::session::Session;
use super::welcome::{PROOF_BYTES, Prover, TAKEN_IN, WRONG_PROOF};

/// Encrypted bytes that are read at a time: several records.
const BUFFER_BYTES: usize = 128 << 10;

/// What is said to one who does not speak TLS: an alert, `protocol_version` (RFC 8446, 6.2). rustls says
/// nothing then, and a source of ours that was not given the token would not know what is wrong.
const NO_TLS: [u8; 7] = [21, 3, 3, 0, 2, 2, 70];

/// Reads a connection.
pub(super) struct TlsReader {
    session: Arc<Session>,
    wire: Box<dyn Read + Send>,
    /// Encrypted bytes; those from `begin` to `end` were not looked at yet.
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
    stage: Stage,
    /// By when the connection must be established.
    deadline: Option<Instant>,
}

enum Stage {
    Handshake,
    /// What the other side says first inside TLS, as far as it has come.
    Welcome {
        said: [u8; 1 + PROOF_BYTES],
        length: usize,
    },
    Open,
}

impl TlsReader {
    pub(super) fn new(session: Arc<Session>, wire: Box<dyn Read + Send>) -> Self {
        Self {
            session,
            wire,
            buffer: vec![0; BUFFER_BYTES].into(),
            begin: 0,
            end: 0,
            stage: Stage::Handshake,
            deadline: None,
        }
    }

    /// Establishes the connection, in as many calls as it takes.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when there is nothing to read yet; else when the other
    /// side is not who it should be, or `deadline` has passed.
    pub(super) fn establish(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        self.deadline = deadline;
        loop {
            match self.stage {
                Stage::Open => return Ok(()),
                Stage::Handshake => {
                    self.session.flush()?;
                    while self.session.tls().is_handshaking() {
                        self.pump()?;
                    }
                    if self.session.local.end == End::Source {
                        self.prove(&[])?;
                    }
                    self.stage = Stage::Welcome {
                        said: [0; 1 + PROOF_BYTES],
                        length: 0,
                    };
                }
                Stage::Welcome {
                    mut said,
                    mut length,
                } => {
                    while length < self.welcome_bytes(&said[..length]) {
                        let wanted = self.welcome_bytes(&said[..length]);
                        let count = self.plain(&mut said[length..wanted])?;
                        if count == 0 {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        length += count;
                        self.stage = Stage::Welcome { said, length };
                    }
                    self.welcomed(&said[..length])?;
                    self.stage = Stage::Open;
                }
            }
        }
    }

    /// How much the other side has to say, by what it has said so far.
    fn welcome_bytes(&self, said: &[u8]) -> usize {
        let proof = self.session.token().map_or(0, |_| PROOF_BYTES);
        match self.session.local.end {
            End::Target => proof,
            End::Source if said.first() == Some(&TAKEN_IN) => 1 + proof,
            End::Source => 1,
        }
    }

    /// Looks at what the other side has said, and answers if this is the target.
    fn welcomed(&self, said: &[u8]) -> io::Result<()> {
        let end = self.session.local.end;
        let proof = match (end, said) {
            (End::Target, proof) => proof,
            (End::Source, [TAKEN_IN, proof @ ..]) => proof,
            (End::Source, _) => {
                return Err(denied(
                    "the target refuses the token of this side; take the one that its \
                     pagelift-receive has printed",
                ));
            }
        };
        if let Some(token) = self.session.token() {
            let prover = Prover::new(token, &self.session.tls());
            let prover = prover.map_err(|error| self.session.refused(&error))?;
            if !prover.is_proven(end.other(), proof) {
                if end == End::Target {
                    self.session.send(&[WRONG_PROOF])?;
                }
                let other = end.other().name();
                return Err(denied(&format!(
                    "the {other} does not have the token of this side"
                )));
            }
        }
        self.session.bind()?;
        if end == End::Target {
            self.prove(&[TAKEN_IN])?;
        }
        Ok(())
    }

    /// Says `first`, and with a token proves that this side has it.
    fn prove(&self, first: &[u8]) -> io::Result<()> {
        let mut said = first.to_vec();
        if let Some(token) = self.session.token() {
            let prover = Prover::new(token, &self.session.tls());
            let prover = prover.map_err(|error| self.session.refused(&error))?;
            said.extend_from_slice(&prover.prove(self.session.local.end));
        }
        self.session.send(&said)
    }

    /// Reads decrypted bytes; 0 when the other side has said that no more come.
    fn plain(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.tls().reader().read(out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            self.pump()?;
        }
    }

    /// Hands some encrypted bytes to TLS, after waiting for them if there are none.
    fn pump(&mut self) -> io::Result<()> {
        if self.begin == self.end {
            if self.deadline.is_some_and(|at| Instant::now() >= at) {
                let other = self.session.local.end.other().name();
                return Err(io::Error::new(
                    io::ErrorKind::NotConnected,
                    format!("the {other} does not answer as TLS asks; is it pagelift?"),
                ));
            }
            let count = self.wire.read(&mut self.buffer)?;
            if count == 0 {
                return Err(self.closed());
            }
            (self.begin, self.end) = (0, count);
        }
        let mut tls = self.session.tls();
        let mut bytes = &self.buffer[self.begin..self.end];
        tls.read_tls(&mut bytes)?;
        self.begin = self.end - bytes.len();
        let processed = tls.process_new_packets();
        let wants_write = tls.wants_write();
        drop(tls);
        match processed {
            Ok(_) if wants_write => self.session.flush(),
            Ok(_) => Ok(()),
            Err(error) => {
                // An alert says why. The other side may be gone already.
                let _ = match self.stage {
                    Stage::Handshake if !wants_write => self.session.send_plain(&NO_TLS),
                    _ => self.session.flush(),
                };
                Err(self.session.refused(&error))
            }
        }
    }

    /// The connection below has ended.
    fn closed(&self) -> io::Error {
        let other = self.session.local.end.other().name();
        match self.stage {
            Stage::Open => io::ErrorKind::UnexpectedEof.into(),
            _ => io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!(
                    "the {other} closed the connection while TLS was being set up; was it told of \
                     the token or the certificates?"
                ),
            ),
        }
    }
}

impl Read for TlsReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !matches!(self.stage, Stage::Open) {
            self.establish(None)?;
        }
        self.plain(out)
    }
}

fn denied(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}
