//! The cookie of Virtuozzo's driver: who may log in where.
//!
//! The session is a login: who has the cookie of a target can use its dispatcher until the session ends.

use std::fmt;

use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};

use crate::domain::Uuid;
use crate::xml::{Element, Writer};

/// The name that a target tells, since it does not know the guest's.
pub const NO_NAME: &str = "__fakename__";

/// What the two dispatchers of a migration tell each other.
#[derive(Clone, PartialEq, Eq)]
pub struct VzCookie {
    /// The session of the dispatcher that speaks: a uuid, which the SDK has in braces.
    pub session: Uuid,
    /// The guest, on the source; zeros from a target.
    pub uuid: Uuid,
    /// The guest's name, on the source; [`NO_NAME`] from a target.
    pub name: String,
}

impl fmt::Debug for VzCookie {
    /// Everything but the login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VzCookie")
            .field("uuid", &self.uuid)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl VzCookie {
    /// What a target tells.
    #[must_use]
    pub fn of_target(session: Uuid) -> Self {
        Self {
            session,
            uuid: Uuid([0; 16]),
            name: NO_NAME.into(),
        }
    }

    /// The bytes that go over the wire, with the zero byte at their end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new(0);
        w.element("vz-migration").body(|w| {
            w.element("session-uuid").text(self.session);
            w.element("uuid").text(self.uuid);
            w.element("name").text(&self.name);
        });
        let mut bytes = w.finish().into_bytes();
        bytes.push(0);
        bytes
    }

    /// Reads what has arrived.
    ///
    /// # Errors
    ///
    /// Code 1 for anything but a cookie of this form.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |what: &str| {
            let detail = format!("{what} in migration cookie");
            Error::new(ErrorCode::InternalError, ErrorDomain::Vz, detail)
        };
        let Some((0, text)) = bytes.split_last() else {
            return Err(wrong("no terminator"));
        };
        let text = std::str::from_utf8(text).map_err(|_| wrong("no text"))?;
        let document = crate::xml::parse(text).map_err(|_| wrong("no XML"))?;
        let mut root = Element::root(&document);
        let mut part = |name: &str| match root.text_of(name) {
            Ok(Some(text)) => Ok(text),
            _ => Err(wrong(&format!("no {name}"))),
        };
        let session = part("session-uuid")?;
        let session = session.trim_matches(['{', '}']);
        Ok(Self {
            session: session
                .parse()
                .map_err(|_| wrong("malformed session-uuid"))?,
            uuid: part("uuid")?.parse().map_err(|_| wrong("malformed uuid"))?,
            name: part("name")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_comes_out_as_it_went_in() {
        let cookie = VzCookie::of_target(Uuid([9; 16]));
        assert_eq!(VzCookie::decode(&cookie.encode()), Ok(cookie.clone()));
        assert!(
            !format!("{cookie:?}").contains("0909"),
            "the login is not to be logged"
        );
        let braces = String::from_utf8(cookie.encode()).unwrap();
        let braces = braces
            .replacen(">09", ">{09", 1)
            .replacen("</session", "}</session", 1);
        assert_eq!(VzCookie::decode(braces.as_bytes()), Ok(cookie));
    }

    #[test]
    fn others_are_refused() {
        for bytes in [
            &b""[..],
            b"<vz-migration/>",
            b"<vz-migration/>\0",
            b"\xff\0",
            b"junk\0",
        ] {
            let error = VzCookie::decode(bytes).unwrap_err();
            assert_eq!((error.code.number(), error.domain.number()), (1, 48));
        }
    }
}
