//! A TLS connection that two threads use: one that sends and one that receives.
//!
//! rustls makes the handshake and the welcome. Then each direction has its own [`Keys`], and records are
//! made and read here: from a frame into the memory that the connection below lends, and from what was
//! received into the reader's memory, without a copy between (`docs/decisions/065-tls.md`).
//!
//! No lock is held while the other direction is waited for: a side that cannot send because the other
//! does not read must go on to read, or both would wait for ever. Encrypted bytes leave in the order in
//! which they were made, since only the holder of the wire makes them.
//!
//! Keys are updated before their limit (RFC 8446, 5.5) by whoever sends.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::digest;
use bytes::Bytes;
use pagelift_engine::transport::{ChannelBinding, PeerIdentity, SendHalf, SendStats};
use rustls::Connection;

use super::explain::explain;
use super::keys::{CONTENT_BYTES, Content, Keys, TrafficSecrets};
use super::{Local, Trust};

/// What the secret of the engine's proofs is exported for.
const LABEL: &[u8] = b"EXPORTER-pagelift-connection";

/// Bytes that are encrypted together: few enough to stay in the processor's cache until they are sent.
const PIECE_BYTES: usize = 128 << 10;

/// What is said before the keys of this side change, in a record of its own: `KeyUpdate`, which asks for
/// nothing (RFC 8446, 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// A connection.
pub(super) struct Session {
    /// What this end is like.
    pub(super) local: Arc<Local>,
    tls: Mutex<Connection>,
    wire: Mutex<Wire>,
    secrets: Arc<TrafficSecrets>,
    /// The other side has asked for other keys of this side.
    owes_update: AtomicBool,
    binding: Arc<OnceLock<ChannelBinding>>,
}

/// The sending direction.
struct Wire {
    /// The sending half of the connection below.
    half: Box<dyn SendHalf>,
    /// Records that rustls has made since the end of the handshake.
    records: u64,
    /// When the connection is open.
    keys: Option<Keys>,
}

impl Session {
    /// Makes the handshake of `tls` over `half`, from which `secrets` come; `binding` is set when the
    /// peer is authenticated.
    pub(super) fn new(
        local: Arc<Local>,
        tls: Connection,
        secrets: Arc<TrafficSecrets>,
        half: Box<dyn SendHalf>,
        binding: Arc<OnceLock<ChannelBinding>>,
    ) -> Self {
        Self {
            local,
            tls: Mutex::new(tls),
            wire: Mutex::new(Wire {
                half,
                records: 0,
                keys: None,
            }),
            secrets,
            owes_update: AtomicBool::new(false),
            binding,
        }
    }

    /// The connection's state; not to be kept while anything is waited for.
    pub(super) fn tls(&self) -> MutexGuard<'_, Connection> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `bytes`, encrypted.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut wire = self.wire();
        if wire.keys.is_none() {
            // The welcome: less than a record.
            wire.records += u64::from(!bytes.is_empty());
            self.tls().writer().write_all(bytes)?;
            return self.flush_to(&mut *wire.half);
        }
        for piece in bytes.chunks(PIECE_BYTES) {
            self.send_piece(&mut wire, piece)?;
        }
        Ok(())
    }

    /// Sends a piece in one call of the connection below.
    fn send_piece(&self, wire: &mut Wire, piece: &[u8]) -> io::Result<()> {
        let Wire { half, keys, .. } = wire;
        let keys = keys.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut buffer = half.lend()?;
        let mut length = 0;
        for content in piece.chunks(CONTENT_BYTES) {
            if keys.are_used_up() || self.owes_update.swap(false, Ordering::Relaxed) {
                let sealed = keys.seal(Content::Handshake, &KEY_UPDATE, &mut buffer[length..]);
                length += sealed.map_err(io::Error::other)?;
                keys.update().map_err(io::Error::other)?;
            }
            let sealed = keys.seal(Content::Data, content, &mut buffer[length..]);
            length += sealed.map_err(io::Error::other)?;
        }
        let buffer = buffer.freeze();
        half.send(buffer.slice(..length))?;
        half.give_back(buffer);
        Ok(())
    }

    /// The other side wants this side's keys to be updated: it is done with the next bytes, since nobody
    /// may wait here for a thread that sends.
    pub(super) fn owe_update(&self) {
        self.owes_update.store(true, Ordering::Relaxed);
    }

    /// The connection is open: records are made by this side's own keys from now on. The keys for those
    /// of the other side, of which `received` have come since the end of the handshake.
    ///
    /// # Errors
    /// When the handshake has made no keys.
    pub(super) fn open(&self, received: u64) -> io::Result<Keys> {
        let mut wire = self.wire();
        self.flush_to(&mut *wire.half)?;
        let suite = self.tls().negotiated_cipher_suite();
        let keys = |end, records| {
            let keys = suite.and_then(|suite| self.secrets.keys(end, suite.suite(), records));
            keys.ok_or_else(|| io::Error::other("TLS has made no keys"))
        };
        wire.keys = Some(keys(self.local.end, wire.records)?);
        keys(self.local.end.other(), received)
    }

    /// Sends what TLS itself has to say. If a thread is sending, that leaves with its next bytes: no
    /// answer is waited for.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self.wire.try_lock() {
            Ok(mut wire) => self.flush_to(&mut *wire.half),
            Err(_) => Ok(()),
        }
    }

    /// Sends `bytes` as they are: to one who does not speak TLS.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn send_plain(&self, bytes: &'static [u8]) -> io::Result<()> {
        self.wire().half.send(Bytes::from_static(bytes))
    }

    /// Sends all that rustls has encrypted, in buffers that `half` lends.
    fn flush_to(&self, half: &mut dyn SendHalf) -> io::Result<()> {
        while self.tls().wants_write() {
            let mut buffer = half.lend()?;
            let mut room = &mut buffer[..];
            let mut tls = self.tls();
            while tls.wants_write() && !room.is_empty() {
                tls.write_tls(&mut room)?;
            }
            drop(tls);
            let left = room.len();
            let buffer = buffer.freeze();
            half.send(buffer.slice(..buffer.len() - left))?;
            half.give_back(buffer);
        }
        Ok(())
    }

    pub(super) fn stats(&self) -> SendStats {
        self.wire().half.stats()
    }

    /// The peer is authenticated: ties the connection to it.
    ///
    /// # Errors
    /// When it speaks another protocol inside TLS, or has no certificate.
    pub(super) fn bind(&self) -> io::Result<()> {
        let tls = self.tls();
        if tls.alpn_protocol() != Some(self.local.protocol()) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it speaks TLS, but not pagelift inside it",
            ));
        }
        let certificate = tls.peer_certificates().and_then(<[_]>::first);
        let certificate =
            certificate.ok_or_else(|| self.refused(&rustls::Error::NoCertificatesPresented))?;
        let mut identity = [0; 32];
        identity.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        let secret = tls
            .export_keying_material([0; 32], LABEL, None)
            .map_err(|error| self.refused(&error))?;
        // It is called once.
        let _ = self
            .binding
            .set(ChannelBinding::new(PeerIdentity(identity), secret));
        Ok(())
    }

    /// What TLS says is wrong, in words.
    pub(super) fn refused(&self, error: &rustls::Error) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, explain(error, &self.local))
    }

    /// The token, if the sides know each other by one.
    pub(super) fn token(&self) -> Option<&super::Token> {
        match &self.local.trust {
            Trust::Token(token) => Some(token),
            Trust::Certificates { .. } => None,
        }
    }
}
