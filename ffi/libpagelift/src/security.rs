//! Ways in which the two sides of a migration know each other.

use std::ffi::c_char;

use pagelift_transports::{AllowedPeer, Certificates, Security as Chosen, Token};

use crate::abi::{self, Versioned};
use crate::error::{Code, Fault};
use crate::text::{copy_text, text};

/// How the two sides know each other, and what protects the guest on the way. Both choose the same. At
/// most one of token, tls_dir and insecure is given; with none, only addresses of this host are allowed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Security {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// A token that both sides have, such as pagelift_token makes: 32 to 128 hexadecimal digits. TLS 1.3.
    pub token: *const c_char,
    /// A directory with certificates, as the programs take by --tls-dir. TLS 1.3.
    pub tls_dir: *const c_char,
    /// With tls_dir, on a source: whom the target's certificate must be for, if not the host of its
    /// address. May be null.
    pub host_name: *const c_char,
    /// With tls_dir: of those whom the authority vouches for, only these may take part, each
    /// "sha256:FINGERPRINT", or a host name or address. Null: all.
    pub allowed: *const *const c_char,
    /// How many texts `allowed` has.
    pub allowed_count: u64,
    /// 1: in clear, to anywhere. Whoever reaches the target can feed it a guest, and whoever is on the
    /// path reads the guest's memory.
    pub insecure: u64,
}

// SAFETY: numbers and pointers, all of which may be zero.
unsafe impl Versioned for Security {
    const LEAST: usize = size_of::<Self>();
}

/// What `given` asks for; only this host if it is null.
///
/// # Safety
/// `given` is null, or was set up by PAGELIFT_INIT; its texts can be read.
pub(crate) unsafe fn chosen(given: *const Security) -> Result<Chosen, Fault> {
    if given.is_null() {
        return Ok(Chosen::LocalOnly);
    }
    // SAFETY: the caller's promise.
    let given = unsafe { abi::read(given)? };
    let with_directory = !given.host_name.is_null() || given.allowed_count > 0;
    match (
        given.token.is_null(),
        given.tls_dir.is_null(),
        given.insecure,
    ) {
        (_, true, _) if with_directory => {
            Err(Fault::argument("host_name and allowed go with tls_dir"))
        }
        (true, true, 0) => Ok(Chosen::LocalOnly),
        (true, true, 1) => Ok(Chosen::Insecure),
        (false, true, 0) => {
            // SAFETY: the caller's promise.
            let token = unsafe { text(given.token, "the token")? };
            Ok(Chosen::Token(
                token.parse::<Token>().map_err(Fault::argument)?,
            ))
        }
        // SAFETY: the caller's promise.
        (true, false, 0) => unsafe { certificates(&given) }.map(Chosen::Certificates),
        _ => Err(Fault::argument(
            "more than one of token, tls_dir and insecure is given, or insecure is neither 0 nor 1",
        )),
    }
}

/// Those of the directory that is given.
///
/// # Safety
/// The texts can be read.
unsafe fn certificates(given: &Security) -> Result<Certificates, Fault> {
    // SAFETY: the caller's promise.
    let mut certificates = Certificates::new(unsafe { text(given.tls_dir, "tls_dir")? });
    if !given.host_name.is_null() {
        // SAFETY: the caller's promise.
        certificates = certificates.host_name(unsafe { text(given.host_name, "host_name")? });
    }
    if given.allowed_count > 0 && given.allowed.is_null() {
        return Err(Fault::argument("allowed is null"));
    }
    let mut peers = Vec::new();
    for number in 0..given.allowed_count as usize {
        // SAFETY: the caller's promise: there are so many.
        let peer = unsafe { text(given.allowed.add(number).read(), "an allowed peer")? };
        peers.push(peer.parse::<AllowedPeer>().map_err(Fault::argument)?);
    }
    Ok(certificates.allowed(peers))
}

/// Makes a random token, for both sides of one migration, and writes it to `text`, which has `room`
/// bytes: 33 are enough. It is a secret.
///
/// # Errors
/// PAGELIFT_CODE_ARGUMENT when there is not enough room, PAGELIFT_CODE_SYSTEM without random numbers.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// `room` bytes can be written at `text`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_token(text: *mut c_char, room: usize) -> Code {
    let make = || {
        let token = Token::generate().map_err(|error| Fault::new(Code::System, error))?;
        // SAFETY: the caller's promise.
        unsafe { copy_text(&token.reveal(), text, room) }
    };
    crate::error::caught(make).map_or_else(|fault| fault.code, |()| Code::Ok)
}
