//! Procedures: their numbers, arguments and replies.
//!
//! A procedure is a type, so that arguments and reply cannot be of two different ones. The tables serve
//! what knows a procedure by its number alone: tests, fuzzing, protocols on paper.

mod connection;
mod domain;
mod job;
mod migrate;
mod migrate_fields;

pub use connection::*;
pub use domain::*;
pub use job::*;
pub use migrate::*;
pub use migrate_fields::*;

use crate::error::Error;
use crate::events::{self, Event};
use crate::message::{Header, Kind, Message, Status};
use crate::xdr::{Input, Malformed, Xdr};

/// A procedure of the remote program.
pub trait Procedure {
    /// Its number.
    const NUMBER: i32;
    /// What it is called with.
    type Args: Xdr + 'static;
    /// What it is answered with.
    type Reply: Xdr + 'static;
}

/// A decoding and encoding again.
type Recode = fn(&[u8]) -> Result<Vec<u8>, Malformed>;

/// What is known of a procedure or event by its number.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    number: i32,
    /// The body of a call, or of an event.
    args: Recode,
    reply: Recode,
}

impl Entry {
    pub(crate) const fn of<P: Procedure>() -> Self {
        Self {
            number: P::NUMBER,
            args: recode::<P::Args>,
            reply: recode::<P::Reply>,
        }
    }

    pub(crate) const fn of_event<E: Event>() -> Self {
        Self {
            number: E::NUMBER,
            args: recode::<E>,
            reply: recode::<()>,
        }
    }
}

fn recode<T: Xdr>(body: &[u8]) -> Result<Vec<u8>, Malformed> {
    let value = T::take(&mut Input::new(body))?;
    let mut out = Vec::with_capacity(body.len());
    value.put(&mut out);
    Ok(out)
}

/// All procedures and events.
const TABLES: [&[Entry]; 6] = [
    CONNECTION,
    DOMAIN,
    JOB,
    MIGRATE,
    MIGRATE_FIELDS,
    events::TABLE,
];

fn entry(number: i32) -> Option<&'static Entry> {
    let mut entries = TABLES.into_iter().flatten();
    entries.find(|entry| entry.number == number)
}

/// Decodes the body of a message of the remote program as what its header says, and encodes it again;
/// `None` where the body has no structure: streams, and procedures that are not known here.
///
/// # Errors
/// When the body is not what it should be.
pub fn recode_body(message: &Message) -> Option<Result<Vec<u8>, Malformed>> {
    let Header { kind, status, .. } = message.header;
    let recode = match (kind, status) {
        (Kind::Reply, Status::Error) => recode::<Error>,
        (Kind::Reply, _) => entry(message.header.procedure)?.reply,
        (Kind::Call | Kind::Message, _) => entry(message.header.procedure)?.args,
        _ => return None,
    };
    Some(recode(&message.body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_given_twice() {
        let mut numbers: Vec<i32> = TABLES.into_iter().flatten().map(|e| e.number).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
    }
}
