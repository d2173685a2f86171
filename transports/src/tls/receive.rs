//! The receiving half of a TLS connection: establishes it, then decrypts.
//!
//! Whatever the connection below has to say about time ("nothing yet") is passed on, in the middle of
//! a handshake as well; the next read goes on where this one was.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use super::End;
use super::keys::{BODY_BYTES, CONTENT_BYTES, Content, HEAD_BYTES, Keys, TAG_BYTES};
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
    /// Records since the end of the handshake that rustls has read.
    records: u64,
    stage: Stage,
    /// By when the connection must be established, until it is.
    pub(super) deadline: Option<Instant>,
}

enum Stage {
    Handshake,
    /// What the other side says first inside TLS, as far as it has come.
    Welcome {
        said: [u8; 1 + PROOF_BYTES],
        length: usize,
    },
    Open(Box<Opened>),
}

/// What an open connection reads by.
struct Opened {
    keys: Keys,
    /// The content of a record that was not read as a whole.
    content: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl TlsReader {
    pub(super) fn new(session: Arc<Session>, wire: Box<dyn Read + Send>) -> Self {
        Self {
            session,
            wire,
            buffer: vec![0; BUFFER_BYTES].into(),
            begin: 0,
            end: 0,
            records: 0,
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
                Stage::Open(_) => return Ok(()),
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
                    let keys = self.session.open(self.records)?;
                    self.deadline = None;
                    self.stage = Stage::Open(Box::new(Opened {
                        keys,
                        content: vec![0; CONTENT_BYTES + 1].into(),
                        begin: 0,
                        end: 0,
                    }));
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

    /// Reads what rustls has decrypted; 0 when the other side has said that no more comes.
    fn plain(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.tls().reader().read(out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            self.pump()?;
        }
    }

    /// Waits for encrypted bytes, behind those that are there.
    fn fill(&mut self) -> io::Result<()> {
        if self.deadline.is_some_and(|at| Instant::now() >= at) {
            let other = self.session.local.end.other().name();
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                format!("the {other} does not answer as TLS asks; is it pagelift?"),
            ));
        }
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        } else if self.buffer.len() - self.begin < HEAD_BYTES + BODY_BYTES {
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        match self.wire.read(&mut self.buffer[self.end..])? {
            0 => Err(self.closed()),
            count => {
                self.end += count;
                Ok(())
            }
        }
    }

    /// Waits until the next record is there; how long it is, its head included. What cannot be a record
    /// is taken as it comes, for rustls to say what is wrong with it.
    fn record(&mut self) -> io::Result<usize> {
        loop {
            let there = &self.buffer[self.begin..self.end];
            if let [kind, major, _, high, low, ..] = *there {
                let body = usize::from(u16::from_be_bytes([high, low]));
                if !(20..=23).contains(&kind) || major != 3 || body > BODY_BYTES {
                    return Ok(there.len());
                }
                if there.len() >= HEAD_BYTES + body {
                    return Ok(HEAD_BYTES + body);
                }
            }
            self.fill()?;
        }
    }

    /// Reads what the records of an open connection hold, into place where a record fits.
    fn opened(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Stage::Open(opened) = &mut self.stage
                && opened.begin < opened.end
            {
                let count = (opened.end - opened.begin).min(out.len());
                let content = &opened.content[opened.begin..opened.begin + count];
                out[..count].copy_from_slice(content);
                opened.begin += count;
                return Ok(count);
            }
            let length = self.record()?;
            let record = &self.buffer[self.begin..self.begin + length];
            self.begin += length;
            let Stage::Open(opened) = &mut self.stage else {
                return Err(io::ErrorKind::NotConnected.into());
            };
            let damaged = || {
                let why = "a TLS record was damaged on the way, or is not the other side's";
                io::Error::new(io::ErrorKind::InvalidData, why)
            };
            let body = record.get(HEAD_BYTES..).unwrap_or_default();
            let room = body.len().checked_sub(TAG_BYTES).ok_or_else(damaged)?;
            let in_place = room <= out.len();
            let place = match in_place {
                true => &mut out[..room],
                false => opened.content.get_mut(..room).ok_or_else(damaged)?,
            };
            let (kind, count) = opened.keys.open(body, place).map_err(|_| damaged())?;
            match (kind, &place[..count]) {
                (Content::Data, []) => {}
                (Content::Data, _) if in_place => return Ok(count),
                (Content::Data, _) => (opened.begin, opened.end) = (0, count),
                // KeyUpdate, and whether it asks for one (RFC 8446, 4.6.3).
                (Content::Handshake, [24, 0, 0, 1, asks @ 0..=1]) => {
                    opened.keys.update().map_err(io::Error::other)?;
                    if *asks == 1 {
                        self.session.owe_update();
                    }
                }
                // close_notify
                (Content::Alert, [_, 0]) => return Ok(0),
                (Content::Alert, [_, alert]) => {
                    let alert = rustls::Error::AlertReceived((*alert).into());
                    return Err(self.session.refused(&alert));
                }
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the other side sends what has no place in TLS 1.3 after the handshake",
                    ));
                }
            }
        }
    }

    /// Hands the next record to rustls, after waiting for it.
    fn pump(&mut self) -> io::Result<()> {
        let length = self.record()?;
        let mut bytes = &self.buffer[self.begin..self.begin + length];
        self.begin += length;
        let mut tls = self.session.tls();
        // Those of the handshake have other keys.
        self.records += u64::from(!tls.is_handshaking());
        while !bytes.is_empty() && tls.read_tls(&mut bytes)? > 0 {}
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
            Stage::Open(_) => io::ErrorKind::UnexpectedEof.into(),
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
        if !matches!(self.stage, Stage::Open(_)) {
            self.establish(None)?;
        }
        self.opened(out)
    }
}

fn denied(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}
