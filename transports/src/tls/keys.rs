//! The keys of one direction of a connection, from the secret that the handshake has made (RFC 8446, 7).

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{self, KeyType, Prk};
use rustls::CipherSuite;

use super::End;

/// Bytes of a record's head: type, version, length.
pub(super) const HEAD_BYTES: usize = 5;

/// Most bytes of content in a record (RFC 8446, 5.1).
pub(super) const CONTENT_BYTES: usize = 16 << 10;

/// Bytes that encryption adds: the inner type, and the tag.
pub(super) const ADDED_BYTES: usize = 1 + TAG_BYTES;

/// Bytes of a tag.
pub(super) const TAG_BYTES: usize = 16;

/// Most bytes of a record after its head (RFC 8446, 5.2).
pub(super) const BODY_BYTES: usize = CONTENT_BYTES + 256;

/// Bytes of a nonce.
const NONCE_BYTES: usize = 12;

/// Records under one key, of the 2^24.5 that AES-GCM allows (RFC 8446, 5.5).
#[cfg(not(test))]
pub(super) const KEY_RECORDS: u64 = 1 << 23;

/// So few that every test comes across an update.
#[cfg(test)]
pub(super) const KEY_RECORDS: u64 = 5;

/// What is in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Content {
    Alert = 21,
    Handshake = 22,
    Data = 23,
}

/// The first secrets of both directions, as the handshake makes them.
#[derive(Debug, Default)]
pub(super) struct TrafficSecrets(Mutex<[Option<Prk>; 2]>);

const LABELS: [(End, &str); 2] = [
    (End::Source, "CLIENT_TRAFFIC_SECRET_0"),
    (End::Target, "SERVER_TRAFFIC_SECRET_0"),
];

impl rustls::KeyLog for TrafficSecrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        // The hash of the suite is as long as the secret.
        let hash = match secret.len() {
            32 => hkdf::HKDF_SHA256,
            _ => hkdf::HKDF_SHA384,
        };
        let at = LABELS.iter().position(|(_, other)| *other == label);
        if let Some(at) = at {
            let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            secrets[at] = Some(Prk::new_less_safe(hash, secret));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        LABELS.iter().any(|(_, wanted)| *wanted == label)
    }
}

impl TrafficSecrets {
    /// The keys for what `end` sends, of which `records` records have gone; `None` before the end of
    /// the handshake.
    pub(super) fn keys(&self, end: End, suite: CipherSuite, records: u64) -> Option<Keys> {
        let at = LABELS.iter().position(|(other, _)| *other == end)?;
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let secret = secrets[at].take()?;
        let (cipher, hash) = match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => (&aead::AES_128_GCM, hkdf::HKDF_SHA256),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => (&aead::AES_256_GCM, hkdf::HKDF_SHA384),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => {
                (&aead::CHACHA20_POLY1305, hkdf::HKDF_SHA256)
            }
            _ => return None,
        };
        Keys::new(secret, cipher, hash, records).ok()
    }
}

/// The keys of one direction.
pub(super) struct Keys {
    secret: Prk,
    cipher: &'static aead::Algorithm,
    hash: hkdf::Algorithm,
    key: LessSafeKey,
    iv: [u8; NONCE_BYTES],
    /// Records so far under this key.
    records: u64,
}

impl Keys {
    fn new(
        secret: Prk,
        cipher: &'static aead::Algorithm,
        hash: hkdf::Algorithm,
        records: u64,
    ) -> Result<Self, Unspecified> {
        let mut key = [0; 32];
        let key = &mut key[..cipher.key_len()];
        expand(&secret, "key", key)?;
        let mut iv = [0; NONCE_BYTES];
        expand(&secret, "iv", &mut iv)?;
        Ok(Self {
            key: LessSafeKey::new(UnboundKey::new(cipher, key)?),
            secret,
            cipher,
            hash,
            iv,
            records,
        })
    }

    /// Goes on to the next key (RFC 8446, 7.2).
    pub(super) fn update(&mut self) -> Result<(), Unspecified> {
        let mut next = [0; 48];
        let next = &mut next[..self.hash.len()];
        expand(&self.secret, "traffic upd", next)?;
        let secret = Prk::new_less_safe(self.hash, next);
        *self = Self::new(secret, self.cipher, self.hash, 0)?;
        Ok(())
    }

    /// Whether it is time for the next key.
    pub(super) fn are_used_up(&self) -> bool {
        self.records >= KEY_RECORDS
    }

    /// Encrypts `content` into a record at the beginning of `out`; how long it is.
    pub(super) fn seal(
        &mut self,
        kind: Content,
        content: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Unspecified> {
        let body = content.len() + ADDED_BYTES;
        let head = head(body);
        let (place, rest) = out.split_at_mut(HEAD_BYTES);
        let (encrypted, end) = rest[..body].split_at_mut(content.len());
        place.copy_from_slice(&head);
        let nonce = self.nonce();
        self.key.seal_out_of_place_scatter(
            nonce,
            Aad::from(head),
            content,
            encrypted,
            &[kind as u8],
            end,
        )?;
        Ok(HEAD_BYTES + body)
    }

    /// Decrypts the body of a record into `out`, which is shorter by the tag. What is in it, and how
    /// many bytes.
    pub(super) fn open(
        &mut self,
        body: &[u8],
        out: &mut [u8],
    ) -> Result<(Content, usize), Unspecified> {
        let at = body.len().checked_sub(TAG_BYTES).ok_or(Unspecified)?;
        let (encrypted, tag) = body.split_at(at);
        let (aad, nonce) = (Aad::from(head(body.len())), self.nonce());
        self.key
            .open_separate_gather(nonce, aad, encrypted, tag, out)?;
        // The type is behind the content, and zeros may follow it.
        let last = out.iter().rposition(|byte| *byte != 0).ok_or(Unspecified)?;
        let kind = match out[last] {
            21 => Content::Alert,
            22 => Content::Handshake,
            23 => Content::Data,
            _ => return Err(Unspecified),
        };
        Ok((kind, last))
    }

    /// That of the next record (RFC 8446, 5.3).
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.records.to_be_bytes()) {
            *byte ^= number;
        }
        self.records += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// The head of an encrypted record with a body of `length` bytes.
fn head(length: usize) -> [u8; HEAD_BYTES] {
    // A body has at most 16640 bytes.
    let [high, low] = (length as u16).to_be_bytes();
    [Content::Data as u8, 3, 3, high, low]
}

/// HKDF-Expand-Label without a context (RFC 8446, 7.1).
fn expand(secret: &Prk, label: &str, out: &mut [u8]) -> Result<(), Unspecified> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    // All are below 256.
    let lengths = [0, out.len() as u8, (6 + label.len()) as u8];
    let info = [&lengths[..], b"tls13 ", label.as_bytes(), &[0]];
    secret.expand(&info, Length(out.len()))?.fill(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::KeyLog;

    fn keys(suite: CipherSuite, secret_bytes: usize) -> [Keys; 2] {
        [(); 2].map(|()| {
            let secrets = TrafficSecrets::default();
            secrets.log(LABELS[0].1, &[], &[7; 48][..secret_bytes]);
            assert!(secrets.keys(End::Target, suite, 0).is_none());
            secrets.keys(End::Source, suite, 3).unwrap()
        })
    }

    #[test]
    fn records_are_read_as_they_were_made_over_updates_of_the_key() {
        for (suite, bytes) in [
            (CipherSuite::TLS13_AES_128_GCM_SHA256, 32),
            (CipherSuite::TLS13_AES_256_GCM_SHA384, 48),
            (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, 32),
        ] {
            let [mut near, mut far] = keys(suite, bytes);
            let mut record = [0; 64];
            let mut out = [0; 64];
            for round in 0..20 {
                let length = near.seal(Content::Data, b"content", &mut record).unwrap();
                let body = &record[HEAD_BYTES..length];
                let room = body.len() - TAG_BYTES;
                let opened = far.open(body, &mut out[..room]).unwrap();
                assert_eq!((opened, &out[..7]), ((Content::Data, 7), &b"content"[..]));
                if round % 6 == 5 {
                    near.update().unwrap();
                    let length = near.seal(Content::Data, b"", &mut record).unwrap();
                    let body = &record[HEAD_BYTES..length];
                    assert!(far.open(body, &mut out[..1]).is_err(), "another key");
                    far.update().unwrap();
                    far.open(body, &mut out[..1]).unwrap();
                }
            }
        }
    }

    #[test]
    fn what_was_changed_on_the_way_is_not_read() {
        let [mut near, mut far] = keys(CipherSuite::TLS13_AES_256_GCM_SHA384, 48);
        let mut record = [0; 64];
        let length = near.seal(Content::Data, b"content", &mut record).unwrap();
        record[HEAD_BYTES] ^= 1;
        let body = &record[HEAD_BYTES..length];
        let mut out = [0; 64];
        assert!(far.open(body, &mut out[..body.len() - TAG_BYTES]).is_err());
        assert!(far.open(&[1, 2, 3], &mut out).is_err());
    }

    /// The derivation of RFC 8448, 3: the server's application traffic keys of a simple handshake.
    #[test]
    fn keys_are_those_of_the_standard() {
        let hex = |text: &str| -> Vec<u8> {
            let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
            (0..text.len()).step_by(2).map(digits).collect()
        };
        let secret = hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
        let secret = Prk::new_less_safe(hkdf::HKDF_SHA256, &secret);
        let (mut key, mut iv) = ([0; 16], [0; 12]);
        expand(&secret, "key", &mut key).unwrap();
        expand(&secret, "iv", &mut iv).unwrap();
        assert_eq!(key[..], hex("9f02283b6c9c07efc26bb9f2ac92e356"));
        assert_eq!(iv[..], hex("cf782b88dd83549aadf1e984"));
    }
}
