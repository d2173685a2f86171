//! A TLS connection that two threads use: one that sends and one that receives.
//!
//! rustls keeps both directions in one value, behind a lock here that is held while bytes are
//! encrypted or decrypted, and never while the socket is waited for: a side that cannot send because
//! the other does not read must go on to read, or both would wait for ever. Encrypted bytes leave in
//! the order in which they were made, since only the holder of the wire makes them.
//!
//! Keys are updated by rustls before their limits (RFC 8446, 5.5): with AES-GCM after 2^24 records of
//! up to 16 KiB (`rustls/src/record_layer.rs`, `RefreshOrClose`).

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::digest;
use bytes::Bytes;
use pagelift_engine::transport::{ChannelBinding, PeerIdentity, SendHalf, SendStats};
use rustls::Connection;

use super::explain::explain;
use super::{Local, Trust};

/// What the secret of the engine's proofs is exported for.
const LABEL: &[u8] = b"EXPORTER-pagelift-connection";

/// Bytes that are encrypted together: few enough to stay in the processor's cache until they are sent.
const PIECE_BYTES: usize = 128 << 10;

/// A connection.
pub(super) struct Session {
    /// What this end is like.
    pub(super) local: Arc<Local>,
    tls: Mutex<Connection>,
    /// The sending half of the connection below.
    wire: Mutex<Box<dyn SendHalf>>,
    binding: Arc<OnceLock<ChannelBinding>>,
}

impl Session {
    /// Makes the handshake of `tls` over `wire`; `binding` is set when the peer is authenticated.
    pub(super) fn new(
        local: Arc<Local>,
        tls: Connection,
        wire: Box<dyn SendHalf>,
        binding: Arc<OnceLock<ChannelBinding>>,
    ) -> Self {
        Self {
            local,
            tls: Mutex::new(tls),
            wire: Mutex::new(wire),
            binding,
        }
    }

    /// The connection's state; not to be kept while anything is waited for.
    pub(super) fn tls(&self) -> MutexGuard<'_, Connection> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wire(&self) -> MutexGuard<'_, Box<dyn SendHalf>> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `bytes`, encrypted.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut wire = self.wire();
        for piece in bytes.chunks(PIECE_BYTES) {
            self.tls().writer().write_all(piece)?;
            self.flush_to(&mut **wire)?;
        }
        Ok(())
    }

    /// Sends what TLS itself has to say. If a thread is sending, that leaves with its next bytes: no
    /// answer is waited for.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self.wire.try_lock() {
            Ok(mut wire) => self.flush_to(&mut **wire),
            Err(_) => Ok(()),
        }
    }

    /// Sends `bytes` as they are: to one who does not speak TLS.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn send_plain(&self, bytes: &'static [u8]) -> io::Result<()> {
        self.wire().send(Bytes::from_static(bytes))
    }

    /// Sends all that is encrypted, in buffers that `wire` lends.
    fn flush_to(&self, wire: &mut dyn SendHalf) -> io::Result<()> {
        while self.tls().wants_write() {
            let mut buffer = wire.lend()?;
            let mut room = &mut buffer[..];
            let mut tls = self.tls();
            while tls.wants_write() && !room.is_empty() {
                tls.write_tls(&mut room)?;
            }
            drop(tls);
            let left = room.len();
            let buffer = buffer.freeze();
            wire.send(buffer.slice(..buffer.len() - left))?;
            wire.give_back(buffer);
        }
        Ok(())
    }

    pub(super) fn stats(&self) -> SendStats {
        self.wire().stats()
    }

    /// The peer is authenticated: ties the connection to it.
    ///
    /// # Errors
    /// When it speaks another protocol inside TLS, or has no certificate.
    pub(super) fn bind(&self) -> io::Result<()> {
        let mut tls = self.tls();
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
        // The engine sends frames of up to a megabyte, and waits where it must.
        tls.set_buffer_limit(None);
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
